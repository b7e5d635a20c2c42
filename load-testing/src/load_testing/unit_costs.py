"""Measures the CPU time per request and per token of each part of the running stack, the input of docs/capacity.md.

It makes two runs with completions of 16 and 128 tokens, and a pause without load. Two equations per part give
its cost per request and per streamed chunk. It uses simulated engines (`make up PROFILE=sim`), so that the
other parts get the CPU. Exit 0: measured. 1: a run failed. 2: no stack runs here.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import psutil

from load_testing import run, workloads
from load_testing.checkout import ROOT
from platform_contracts.prometheus import Prometheus

PARTS = ("edge", "router", "redis", "prometheus", "agent-a")
RUNS = (("fixed-rate", 16), ("long-answers", 128))


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    pids = _pids()
    if not pids:
        print("unit-costs: no stack runs here; `make up PROFILE=sim` first", file=sys.stderr)
        return 2
    try:
        environment = run.client_environment(os.environ, options.target)
    except run.BadTarget as problem:
        print(f"unit-costs: {problem}", file=sys.stderr)
        return 2
    folder = run.new_folder("unit-costs")
    began, before = time.monotonic(), _cpu(pids)
    time.sleep(options.idle_seconds)
    idle = {part: (spent - before[part]) / (time.monotonic() - began) for part, spent in _cpu(pids).items()}
    measured = []
    for name, tokens in RUNS:
        rate = options.tokens_per_second / tokens
        plan = run.Plan(name, workloads.load(name), rate, options.seconds, 1, environment)
        began, before = time.monotonic(), _cpu(pids)
        try:
            summary = run.run_once(plan, folder / name)
        except run.GeneratorFailed as failure:
            print(f"unit-costs: {failure}", file=sys.stderr)
            return 1
        took = time.monotonic() - began
        spent = {part: now - before[part] - idle[part] * took for part, now in _cpu(pids).items()}
        measured.append({"requests": summary.numbers["requests"], "tokens": tokens, "cpu_seconds": spent})
        print(run.one_line(summary), flush=True)
    result: dict[str, Any] = {part: {**solve(measured, part), "idle_cores": idle[part]} for part in PARTS}
    result["series"] = _series(options.prometheus)
    (folder / "unit-costs.json").write_text(json.dumps(result, indent=2) + "\n")
    for part in PARTS:
        costs = result[part]
        print(
            f"{part:<12} {costs['request_us']:8.0f} µs/request {costs['chunk_us']:8.1f} µs/chunk "
            f"{costs['idle_cores']:8.4f} cores idle"
        )
    print(f"Prometheus series: {result['series']}")
    print(folder / "unit-costs.json")
    return 0


def solve(measured: list[dict[str, Any]], part: str) -> dict[str, float]:
    """Return µs of CPU per request and per chunk from two runs with different numbers of tokens."""
    (few, many) = measured
    per_few = few["cpu_seconds"][part] / few["requests"] * 1e6
    per_many = many["cpu_seconds"][part] / many["requests"] * 1e6
    chunk = (per_many - per_few) / (many["tokens"] - few["tokens"])
    return {"request_us": per_few - chunk * few["tokens"], "chunk_us": chunk}


def _pids() -> dict[str, int]:
    script = ROOT / "scripts" / "show-status"
    done = subprocess.run(
        [sys.executable, str(script), "--json"], capture_output=True, text=True, check=False
    )
    rows = {row["part"]: row["pid"] for row in json.loads(done.stdout or "[]")}
    return {part: rows[part] for part in PARTS} if all(rows.get(part) for part in PARTS) else {}


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU seconds that each part has used, threads included."""
    return {part: sum(psutil.Process(pid).cpu_times()[:2]) for part, pid in pids.items()}


def _series(prometheus: str) -> dict[str, int]:
    """Return the number of series of each job in Prometheus."""
    with Prometheus(prometheus) as client:
        found = client.values("sum by (job) (scrape_samples_scraped)")
    return {labels["job"]: int(value) for labels, value in found}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unit-costs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--tokens-per-second", type=float, default=1600.0, help="of each run, all streams together"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each run")
    parser.add_argument("--idle-seconds", type=float, default=10.0)
    parser.add_argument("--target", help="base URL ending in /v1 (default: the local stack's edge)")
    parser.add_argument("--prometheus", default=run.PROMETHEUS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
