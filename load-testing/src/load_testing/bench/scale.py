"""`make bench SCALE=1`: the cost per backend of the router and its peers, from 2 to 1,000 backends.

The backends are real sockets: one cheap program listens on an address 127.0.x.y per backend. Loopback only.
"""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

from load_testing.bench.interpreter import described
from load_testing.bench.native_programs import compile_programs
from load_testing.bench.processes import DidNotStart, answers, cpu_seconds, free_port, resident_kb, running
from load_testing.bench.scale_report import table
from load_testing.bench.systems import OURS, System, peers, router_config, rules
from load_testing.checkout import ROOT

SIZES = (2, 16, 64, 256, 1000)
BENCHMARKS = ROOT / "services/router-service/benchmarks"
SETTLE_SECONDS = 2.0
IDLE_SECONDS = 8.0
SCRAPES = 20
MARK = "scrape pieces "
LAG = "router_event_loop_lag_seconds"
DECIDE = "router_decide_seconds"
WAIT_SECONDS = 20.0
"""Longest wait for a change of the usable backends, and for the end after SIGTERM."""


def addresses(count: int) -> list[str]:
    """Return the addresses that the backend program listens on."""
    return [f"127.0.{1 + n // 250}.{1 + n % 250}" for n in range(count)]


class ScaleBench:
    """One run. Every size gets a new backend program and a new router."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self.port = free_port()
        self.problems: list[str] = []

    def measure(self, size: int, turn: int) -> dict[str, dict[str, float]]:
        """Return every measure of each system in front of ``size`` backends; ``turn`` rotates the order of systems."""
        backend_port = free_port()
        command = [str(self.folder / "backend"), str(backend_port), "50", "40", str(size)]
        urls = [f"http://{address}:{backend_port}" for address in addresses(size)]
        everything = [self._ours(urls), *peers(self.port, free_port(), urls)]
        turn %= len(everything)
        found = {}
        with running(
            command, self.folder / f"backend-{size}.log", partial(answers, f"{urls[-1]}/health")
        ) as backend:
            for system in everything[turn:] + everything[:turn]:
                log = self.folder / f"{system.name}-{size}.log"
                ready = partial(answers, f"http://127.0.0.1:{self.port}{system.ready_path}")
                try:
                    with running(system.command, log, ready) as pid:
                        time.sleep(SETTLE_SECONDS)
                        own = system.name == OURS
                        found[system.name] = (
                            self._whole(pid, backend, size, log) if own else self._shared(pid)
                        )
                except DidNotStart as problem:
                    self.problems.append(f"{system.name} with {size} backends: {problem}")
        return found

    def _ours(self, urls: list[str]) -> System:
        config = self.folder / f"router-{len(urls)}.yaml"
        config.write_text(router_config(self.port, urls))
        (self.folder / "rules.yaml").write_text(rules())
        command = (str(ROOT / ".venv/bin/python"), str(BENCHMARKS / "scrape_pieces.py"), "serve")
        return System(OURS, (*command, "--config", str(config)), "/readyz")

    def _shared(self, pid: int) -> dict[str, float]:
        """Return what is measured of every system."""
        found = self._idle(pid)
        found |= self._loaded(pid)
        found["memory_mb"] = resident_kb(pid) / 1024
        return found

    def _whole(self, router: int, backend: int, size: int, log: Path) -> dict[str, float]:
        before = self._scrape()
        found = self._idle(router)
        found["loop_lag_p99_ms"] = _bucket_of(0.99, before, self._scrape(), LAG) * 1e3
        before = self._scrape()
        found |= self._loaded(router)
        after = self._scrape()
        decisions = _total(after, f"{DECIDE}_count") - _total(before, f"{DECIDE}_count")
        took = _total(after, f"{DECIDE}_sum") - _total(before, f"{DECIDE}_sum")
        found["decide_us"] = took / max(1.0, decisions) * 1e6
        found |= self._scraped(size, log)
        found["memory_mb"] = resident_kb(router) / 1024
        found |= self._changes(backend, size)
        found["sigterm_seconds"] = self._ended(router)
        return found

    def _idle(self, pid: int) -> dict[str, float]:
        began, cpu = time.monotonic(), cpu_seconds(pid)
        time.sleep(IDLE_SECONDS)
        return {"idle_cpu_percent": (cpu_seconds(pid) - cpu) / (time.monotonic() - began) * 100}

    def _loaded(self, pid: int) -> dict[str, float]:
        self._load(pid, "closed", 32, 2.0, 1024)
        cpu, found = self._load(pid, "closed", 32, self.seconds, 1024)
        chunk_cpu, streamed = self._load(pid, "streams", 256, 60, 1)
        return {
            "cpu_us_per_request": cpu / max(1, found["ok"]) * 1e6,
            "requests_per_second": found["per_second"],
            "cpu_us_per_chunk": chunk_cpu / max(1, streamed["chunks"]) * 1e6,
        }

    def _load(self, router: int, *arguments: object) -> tuple[float, dict[str, Any]]:
        command = [str(self.folder / "loadgen"), str(self.port), *(str(a) for a in arguments)]
        before = cpu_seconds(router)
        output = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
        found: dict[str, Any] = json.loads(output)
        if found["failed"]:
            self.problems.append(f"{found['failed']} failed answers at {' '.join(command[2:])}")
        return cpu_seconds(router) - before, found

    def _scraped(self, size: int, log: Path) -> dict[str, float]:
        took = []
        text = b""
        for _ in range(SCRAPES):
            began = time.perf_counter()
            text = self._get("/metrics")
            took.append(time.perf_counter() - began)
        lines = [line for line in text.decode().splitlines() if line and not line.startswith("#")]
        of_backends = sum('backend="' in line for line in lines)
        return {
            "series": len(lines),
            "series_per_backend": of_backends / size,
            "scrape_ms": statistics.median(took) * 1e3,
            "scrape_held_ms": max(_holds(log), default=math.nan),
        }

    def _changes(self, backend: int, size: int) -> dict[str, float]:
        """Take one backend down and up again, and time the router's view of it."""
        found = {}
        for number, name, wanted in (
            (signal.SIGUSR1, "dead_out_seconds", size - 1),
            (signal.SIGUSR2, "new_in_seconds", size),
        ):
            began = time.monotonic()
            os.kill(backend, number)
            while self._usable() != wanted and time.monotonic() < began + WAIT_SECONDS:
                time.sleep(0.02)
            found[name] = time.monotonic() - began
        return found

    def _usable(self) -> int:
        usable = json.loads(self._get("/readyz"))["usable_backends"]
        return int(usable["general"])

    def _ended(self, router: int) -> float:
        began = time.monotonic()
        os.kill(router, signal.SIGTERM)
        status = Path(f"/proc/{router}/stat")
        while time.monotonic() < began + WAIT_SECONDS:
            if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
                return time.monotonic() - began
            time.sleep(0.01)
        self.problems.append(f"the router did not end within {WAIT_SECONDS:g} s of SIGTERM")
        return WAIT_SECONDS

    def _get(self, path: str) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return bytes(answer.read())

    def _scrape(self) -> dict[str, float]:
        lines = self._get("/metrics").decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def _holds(log: Path) -> list[float]:
    """Return how long each scrape so far held the router's loop, in ms of CPU (`scrape_pieces.py` writes it)."""
    marked = [line for line in log.read_text().splitlines() if line.startswith(MARK)]
    return [json.loads(line.removeprefix(MARK))[0][0] for line in marked]


def _decisions() -> dict[int, float]:
    """Return the CPU µs of a decision with 100 rules, by number of backends."""
    command = [str(ROOT / ".venv/bin/python"), str(BENCHMARKS / "decisions.py"), "--targets"]
    output = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    return {int(backends): float(spent) for backends, spent in json.loads(output).items()}


def _total(samples: dict[str, float], name: str) -> float:
    return sum(value for key, value in samples.items() if key == name or key.startswith(name + "{"))


def _bucket_of(quantile: float, before: dict[str, float], after: dict[str, float], name: str) -> float:
    """Return the upper bound of the bucket that holds ``quantile`` of the observations between two scrapes."""
    prefix = f'{name}_bucket{{le="'
    grown = sorted(
        (float(key[len(prefix) : -2].replace("+Inf", "inf")), value - before.get(key, 0.0))
        for key, value in after.items()
        if key.startswith(prefix)
    )
    total = grown[-1][1] if grown else 0.0
    return next((bound for bound, count in grown if count >= quantile * total), 0.0)


def main() -> int:
    """Run, print, write. Exit 1 when a measurement is invalid."""
    quick = os.environ.get("QUICK") == "1"
    rounds = int(os.environ.get("ROUNDS") or (1 if quick else 3))
    sizes = [int(size) for size in os.environ.get("SIZES", "").split()] or list(SIZES)
    folder = ROOT / ".run" / "bench" / time.strftime("%Y%m%dT%H%M%S-scale")
    folder.mkdir(parents=True)
    compile_programs(folder)
    bench = ScaleBench(folder, 1.5 if quick else 4.0)
    results: dict[int, dict[str, dict[str, list[float]]]] = {size: {} for size in sizes}
    for number in range(rounds):
        # The order changes each round, so that warm-up and heat affect every size.
        turn = number % len(sizes)
        for size in sizes[turn:] + sizes[:turn]:
            try:
                found = bench.measure(size, number)
            except (DidNotStart, OSError, subprocess.SubprocessError) as problem:
                bench.problems.append(f"{size} backends: {type(problem).__name__}: {problem}")
                continue
            for name, measures in found.items():
                rounded = {measure: round(value, 3) for measure, value in measures.items()}
                print(f"{size} backends, {name}: {json.dumps(rounded)}", flush=True)
                for measure, value in measures.items():
                    results[size].setdefault(name, {}).setdefault(measure, []).append(value)
    decisions = _decisions()
    report = {
        "rounds": rounds,
        "interpreter": described(ROOT / ".venv" / "bin" / "python"),
        "machine": {"cores": os.cpu_count(), "load_average_at_end": os.getloadavg()[0]},
        "invalid": bench.problems,
        "decisions": decisions,
        "all": results,
    }
    (folder / "scale.json").write_text(json.dumps(report, indent=1))
    print(table(results, decisions))
    print(f"\nwritten to {folder.relative_to(ROOT)}/scale.json")
    for invalid in bench.problems:
        print(f"INVALID: {invalid}")
    return 1 if bench.problems else 0


if __name__ == "__main__":
    sys.exit(main())
