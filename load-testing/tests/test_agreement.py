"""The report, the platform's metrics and an independent client agree about the same load."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from harness.chaos.world import steady_load
from harness.stacks.asked_platform import load_key
from harness.stacks.local import ROOT, Stack, running_stack
from load_testing.reports.summary import MAX_LATE_RATIO
from load_testing.users.prompts import text

pytestmark = [pytest.mark.service, pytest.mark.full, pytest.mark.timeout(400)]

RATE, SECONDS, TOKENS = 5.0, 40.0, 16


@pytest.fixture
def slow_engines(tmp_path: Path) -> Iterator[Stack]:
    """Engines with steps of 0.2 s, so that the compared times are far above the clients' overhead."""
    with running_stack("sim", tmp_path / "run-dir", SIMULATOR_ARGUMENTS="--step-seconds 0.2") as stack:
        time.sleep(6)  # One scrape interval, so that the counters include the requests of the start.
        yield stack


def test_report_prometheus_and_an_independent_client_agree(slow_engines: Stack, tmp_path: Path) -> None:
    summary = report(slow_engines, tmp_path / "run")
    prometheus = summary["prometheus"]
    print({name: (summary[name]["mean"]) for name in ("ttft_seconds", "total_seconds")}, prometheus)
    assert summary["failed"] == 0
    assert summary["late_ratio"] <= MAX_LATE_RATIO
    assert summary["requests"] == summary["planned"]
    assert prometheus["requests"] == prometheus["ok"] == summary["requests"]
    assert prometheus["completion_tokens"] == summary["completion_tokens"] == TOKENS * summary["requests"]
    goodput = (prometheus["first_tokens"] - prometheus["slow_first_tokens"]) / prometheus["requests"]
    assert summary["goodput_ratio"] == pytest.approx(goodput, rel=0.02)
    assert summary["ttft_seconds"]["mean"] == pytest.approx(prometheus["ttft_mean_seconds"], rel=0.02)
    assert summary["total_seconds"]["mean"] == pytest.approx(prometheus["total_mean_seconds"], rel=0.02)

    draws = random.Random(7)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(text(draws, draws.randint(8, 40)) for _ in range(500)))
    options = ("--prompts", str(prompts))
    with steady_load(
        load_key(slow_engines), tmp_path / "other.jsonl", RATE, TOKENS, *options, url=slow_engines.edge
    ) as other:
        time.sleep(SECONDS)
        answers = other.finish()
    kept = [a for a in answers if a.ending == "good" and a.ttft_seconds is not None and a.ttft_seconds <= 2]
    print(fmean(a.ttft_seconds or 0 for a in answers), fmean(a.total_seconds for a in answers), len(answers))
    assert len(kept) / len(answers) == pytest.approx(summary["goodput_ratio"], rel=0.05)
    assert fmean(a.ttft_seconds or 0 for a in answers) == pytest.approx(
        summary["ttft_seconds"]["mean"], rel=0.05
    )
    assert fmean(a.total_seconds for a in answers) == pytest.approx(
        summary["total_seconds"]["mean"], rel=0.05
    )


def report(stack: Stack, out: Path) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "load_testing.run", "--workload", "fixed-rate"),
            *("--rate", str(RATE), "--duration", str(SECONDS), "--out", str(out)),
        ],
        env={**os.environ, **stack.environment, **stack.client_environment()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-2000:] + done.stderr[-2000:])
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary
