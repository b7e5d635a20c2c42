"""Tests pass when a script starts them with SIGINT ignored, which every process would inherit (conftest.py)."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_a_process_of_a_test_ends_at_an_interrupt() -> None:
    child = subprocess.Popen(["sleep", "60"])
    child.send_signal(signal.SIGINT)
    try:
        assert child.wait(timeout=20) == -signal.SIGINT
    finally:
        child.kill()
        child.wait()


@pytest.mark.programs
def test_it_does_so_too_in_a_run_that_was_started_with_interrupts_ignored() -> None:
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    run += ["-k", test_a_process_of_a_test_ends_at_an_interrupt.__name__]
    done = subprocess.run(
        ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *run],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
