"""Measures what a policy gains: the same workload on the stack's two engines under each policy.

Each policy gets a separate router in front of the running stack's engines. Every policy gets requests at the
same times but with different texts, so that no policy profits from another's prefix-cache entries. Prints a
table and writes it to a file. Exit 0: measured. 1: a run failed. 2: no engine responds.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from load_testing import run, workloads

START_SECONDS = 30.0
# policy of the pool, and whether session affinity is on
POLICIES: Mapping[str, tuple[str, bool]] = {
    "round robin": ("round_robin", False),
    "least loaded": ("least_loaded", False),
    "session affinity": ("least_loaded", True),
    "prefix affinity": ("prefix_affinity", False),
}


@dataclass(frozen=True)
class Engine:
    """One engine of the running stack."""

    name: str
    url: str

    def counter(self, metric: str) -> float:
        """Return the sum of an engine's counter over its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        lines = (line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == metric)
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    engines = [
        Engine(
            f"backend-{letter}", f"http://127.0.0.1:{os.environ.get(f'ENGINE_{letter.upper()}_PORT') or port}"
        )
        for letter, port in (("a", 8101), ("b", 8102))
    ]
    try:
        for engine in engines:
            httpx.get(f"{engine.url}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        print(f"routing-pays: {engine.url} does not answer ({error}); run `make up` first", file=sys.stderr)
        return 2
    folder = run.new_folder("routing-pays")
    rows: list[dict[str, Any]] = []
    runs = [(n, w, p) for n in range(options.rounds) for w in options.workload for p in POLICIES]
    seed = options.seed or random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}", flush=True)
    for number, workload, policy in runs:
        sessions = any(kind.turns > 1 for kind in workloads.load(workload).requests)
        if policy == "session affinity" and not sessions:
            continue  # without sessions it equals least loaded
        out = folder / f"{number}-{workload}-{policy.replace(' ', '-')}"
        try:
            with _router(engines, *POLICIES[policy], out) as url:
                row = _measure(engines, workload, options, seed + number, url, out)
        except (run.GeneratorFailed, NotReady) as failure:
            print(f"routing-pays: {failure}", file=sys.stderr)
            return 1
        rows.append({"round": number, "workload": workload, "policy": policy, **row})
        print(_line(rows[-1]), flush=True)
    (folder / "routing-pays.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(as_table(rows))
    print(folder)
    return 0


class NotReady(Exception):
    """The router of one policy did not start."""


@contextlib.contextmanager
def _router(engines: Sequence[Engine], policy: str, affinity: bool, out: Path) -> Iterator[str]:
    out.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    config = {
        "server": {"host": "127.0.0.1", "port": port, "settle_seconds": 0.0},
        "pools": {
            "general": {
                "policy": policy,
                "models": ["smollm2-135m-instruct"],
                "backends": {engine.name: {"url": engine.url} for engine in engines},
            }
        },
        "routing": {"default_pool": "general"},
        "affinity": {"enabled": affinity},
    }
    path = out / "router.yaml"
    path.write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{port}"
    with (out / "router.jsonl").open("ab") as log:
        command = [str(Path(sys.executable).parent / "router-service"), "serve", "--config", str(path)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _usable(url, len(engines)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotReady(f"the router for {policy} did not start; see {out / 'router.jsonl'}")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def _usable(url: str, backends: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        text = httpx.get(f"{url}/metrics", timeout=5).text
        return f'router_usable_backends{{pool="general"}} {backends:.1f}' in text
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _measure(
    engines: Sequence[Engine], name: str, options: argparse.Namespace, seed: int, url: str, out: Path
) -> dict[str, Any]:
    counters = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
    before = [sum(engine.counter(metric) for engine in engines) for metric in counters]
    plan = run.Plan(
        name=name,
        workload=workloads.load(name),
        rate_per_second=options.rate or workloads.load(name).rate_per_second,
        duration_seconds=options.seconds,
        seed=seed,
        environment={
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": "none",
            "LOAD_TEXT_SALT": f"{seed}-{out.name}",
        },
    )
    summary = run.run_once(plan, out)
    hits, queries = (
        sum(engine.counter(metric) for engine in engines) - was
        for metric, was in zip(counters, before, strict=True)
    )
    n = summary.numbers
    (out / "summary.json").write_text(json.dumps(n, indent=2) + "\n")
    return {
        "requests": n["requests"],
        "failed": n["failed"],
        "hit_rate": hits / queries if queries else 0.0,
        "ttft_seconds": n["ttft_seconds"],
        "goodput_ratio": n["goodput_ratio"],
        "late_ratio": n["late_ratio"],
        "by_backend": {backend: group["requests"] for backend, group in n["by_backend"].items()},
    }


def _line(row: Mapping[str, Any]) -> str:
    ttft = {q: f"{(row['ttft_seconds'][q] or 0) * 1000:,.0f}" for q in ("mean", "p50", "p95")}
    shares = " / ".join(str(count) for _, count in sorted(row["by_backend"].items()))
    return (
        f"| {row['workload']} | {row['policy']} | {row['requests']} ({row['failed']} failed) | {row['hit_rate']:.1%} "
        f"| {ttft['mean']} | {ttft['p50']} | {ttft['p95']} | {row['goodput_ratio']:.1%} | {shares} |"
    )


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as Markdown, sorted by workload."""
    names = (
        "workload",
        "policy",
        "requests",
        "prefix cache hits",
        "TTFT mean ms",
        "p50",
        "p95",
        "goodput",
        "a / b",
    )
    head = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*head, *(_line(row) for row in sorted(rows, key=lambda row: row["workload"]))])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="routing-pays", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", nargs="+", default=["multi-turn", "shared-prefixes"])
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0: each workload's own")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each run")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="0: drawn, and printed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
