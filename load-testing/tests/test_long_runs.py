"""Long runs on whole stacks: ten minutes on vLLM at 80 % of its capacity, ten on simulators, and the gain of
each routing policy.

``LOAD_SECONDS`` shortens them. Reports stay in ``.run/load`` and ``.run/routing-pays``.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.stacks.local import ROOT, Stack, running_stack
from load_testing.reports.summary import MAX_LATE_RATIO

pytestmark = [pytest.mark.full, pytest.mark.timeout(1600)]

SECONDS = float(os.environ.get("LOAD_SECONDS", "600"))
PANELS = (
    "Where the time to first token went",
    "Bottleneck of each pool",
    "Waiting in the engines",
    "KV cache",
)


def program(stack: Stack, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of load-testing's programs on a stack and print its output."""
    environment = {**os.environ, **stack.environment, **stack.client_environment()}
    done = subprocess.run(
        [sys.executable, "-m", "load_testing.main", name, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout + done.stderr)
    return done


def long_run(stack: Stack, rate: float, out: Path) -> dict[str, Any]:
    """Run the 70/30 mix; return its summary once its report is complete."""
    arguments = ("--workload", "two-models", "--rate", f"{rate:.2f}", "--duration", f"{SECONDS:g}")
    program(stack, "run", *arguments, "--out", str(out))
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    assert summary["failed"] == 0
    assert summary["truncated"] == 0
    assert summary["requests"] > 0.9 * rate * SECONDS
    assert summary["late_ratio"] <= MAX_LATE_RATIO
    assert not [problem for problem in summary["problems"] if problem.startswith("invalid")]
    assert "names of the same weights" in summary["description"]
    page = (out / "report.html").read_text()
    for panel in PANELS:
        assert panel in page, "the report is complete"
    assert "<iframe" in page, "with the dashboards' pictures"
    assert set(summary["by_pool"]) == {"general", "long-form"}
    return summary


# One engine gets 140 requests/s. With the simulator's default prefill of 0.2 ms per token, prompts alone
# would need twice its capacity, and its steps would grow by 0.1 ms per sequence.
QUICK_ENGINES = "--prefill-seconds-per-token 0.00002 --step-seconds-per-sequence 0"
# Completions of 0.35 s at 140 requests/s are 49 concurrent ones on average, and often over 64, the local
# stack's limit per backend. The simulator runs 256 at once, but its agent reports the 32 of the local model file,
# which is the lower limit: here the router probes the engines themselves, and they report none.
ENGINE_LIMIT = 256
LOCAL_CONFIG = ROOT / "services" / "router-service" / "config" / "local.yaml"


@pytest.mark.service
def test_two_hundred_requests_a_second_on_simulators(tmp_path: Path) -> None:
    config = yaml.safe_load(LOCAL_CONFIG.read_text())
    config["routing"]["rules_file"] = str(LOCAL_CONFIG.with_name(config["routing"]["rules_file"]))
    config["limits"]["max_in_flight_per_backend"] = ENGINE_LIMIT
    for pool in config["pools"].values():
        for backend in pool["backends"].values():
            del backend["health_url"]
    written = tmp_path / "router.yaml"
    written.write_text(yaml.safe_dump(config))
    variables = {"SIMULATOR_ARGUMENTS": QUICK_ENGINES, "ROUTER_CONFIG": str(written)}
    with running_stack("sim", tmp_path / "run", **variables) as stack:
        summary = long_run(stack, 200.0, ROOT / ".run" / "load" / "long-simulated")
    assert summary["completion_tokens"] == 16 * summary["requests"]


@pytest.mark.platform
def test_the_mix_at_80_percent_of_capacity_on_vllm(vllm_stack: Stack) -> None:
    options = ("--workload", "two-models", "--seconds", "20", "--start", "1", "--precision", "0.4")
    searched = program(vllm_stack, "capacity", *options)
    found = re.search(r"capacity of two-models: ([\d.]+) requests/s", searched.stdout)
    assert found, "a rate that holds the SLO was found"
    assert re.search(r"what stopped it: (?!unknown|nothing)\w+", searched.stdout)
    long_run(vllm_stack, 0.8 * float(found[1]), ROOT / ".run" / "load" / "long-vllm")


@pytest.mark.platform
def test_affinity_finds_more_in_the_prefix_cache_than_round_robin(vllm_stack: Stack) -> None:
    done = program(vllm_stack, "routing-pays", "--seconds", f"{min(SECONDS, 45):g}")
    assert done.returncode == 0
    folder = Path(done.stdout.splitlines()[-1])
    rows = json.loads((folder / "routing-pays.json").read_text())
    hits = {(row["workload"], row["policy"]): row["hit_rate"] for row in rows}
    assert all(row["failed"] == 0 for row in rows)
    assert hits["multi-turn", "session affinity"] > hits["multi-turn", "round robin"]
    assert hits["multi-turn", "prefix affinity"] > hits["multi-turn", "round robin"]
    assert hits["shared-prefixes", "prefix affinity"] > hits["shared-prefixes", "round robin"]
