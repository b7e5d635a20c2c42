"""Test processes that run at the same time draw different ports."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness import ports

TESTS = Path(__file__).resolve().parents[1]
DRAW = """
from harness.ports import free_port
print(*(free_port() for _ in range(200)), flush=True)
input()
"""


def test_a_process_draws_no_port_twice() -> None:
    drawn = [ports.free_port() for _ in range(200)]
    assert len(set(drawn)) == len(drawn)
    assert all(ports.FIRST <= port <= ports.LAST for port in drawn)


def test_processes_at_the_same_time_draw_from_separate_slices(tmp_path: Path) -> None:
    # A folder of its own: other test runs on this machine may hold every slice.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", DRAW],
            cwd=TESTS,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        drawn = [[int(word) for word in run.stdout.readline().split()] for run in runs if run.stdout]
    finally:
        for run in runs:
            run.communicate("\n", timeout=30)
    size = (ports.LAST + 1 - ports.FIRST) // ports.SLICES
    slices = [{(port - ports.FIRST) // size for port in one} for one in drawn]
    assert all(len(one) == 1 for one in slices)
    assert len(set.union(*slices)) == len(runs)


def test_a_process_without_a_slice_draws_from_all_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert ports._slice() == range(ports.FIRST, ports.LAST + 1)
