"""`make bench`: measures our router and its peers in turn and prints the table of ratios.

QUICK=1 makes it short (under three minutes); ROUNDS=n repeats it and takes medians. SCALE=1 measures the router
and two peers over the number of backends (`scale`). Loopback only.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from load_testing.bench import scale
from load_testing.bench.collector import Collector, collecting
from load_testing.bench.interpreter import described
from load_testing.bench.native_programs import compile_programs
from load_testing.bench.processes import DidNotStart, answers, cpu_seconds, free_port, resident_kb, running
from load_testing.bench.report import draw, table
from load_testing.bench.session_store import keys, running_redis
from load_testing.bench.systems import OURS, OURS_WITH_REDIS, TRACE_RATIO, Services, System, systems
from load_testing.checkout import ROOT

LATE_LIMIT = 0.01
"""A run is invalid if the load generator sent more than this share over 1 ms late."""

INTERVAL_MS = 50
"""Between chunks of a stream: 20 chunks a second each."""

PACE_LIMIT = 0.1
"""Allowed distance of the gap p99 without a router from the interval; beyond it the load itself is late."""

ANSWERS, ANSWER_TOKENS = 64, 256
"""Whole streamed answers: how many at once, and the chunks of each."""

WARM_ANSWERS = 12_000
"""Requests before memory at rest is read: more than the router's 10,000 records, so that streams are not charged with
records."""

SESSIONS = 10_000
SESSION_HEADER = "x-session-id: session-####"
"""The load generator counts up the digits, over that many sessions."""

IDLE_SECONDS = 6.0
"""The router caches a pin for 5 s: for a session that was idle this long, it queries Redis."""


def off_pace(gap_p99_ms: float) -> bool:
    """Return whether backends or generator missed the interval between chunks."""
    return abs(gap_p99_ms / INTERVAL_MS - 1) > PACE_LIMIT


def untraced(traced: int, answered: int) -> bool:
    """Return whether far fewer spans arrived than the ratio promises; then their cost was not measured."""
    return traced < answered * TRACE_RATIO / 2


@dataclass(slots=True)
class Plan:
    """Duration of each measurement."""

    quick: bool
    rounds: int
    seconds: float = field(init=False)
    chunks: int = field(init=False)
    streams: tuple[int, ...] = (64, 256, 1000)

    def __post_init__(self) -> None:
        self.seconds = 1.5 if self.quick else 4.0
        self.chunks = 64 if self.quick else 100


class Bench:
    """One run: programs compiled, backends up, every system measured in every round."""

    def __init__(self, plan: Plan, folder: Path, collector: Collector) -> None:
        self.plan = plan
        self.folder = folder
        self.port = free_port()
        self.invalid: list[str] = []
        self.results: dict[str, dict[str, list[float]]] = {}
        self._collector = collector
        self._redis_port: int | None = None
        self._answered = 0
        self._at_rest_kb = 0

    def run(self) -> dict[str, Any]:
        """Measure and return the report as JSON-ready data."""
        compile_programs(self.folder)
        with ExitStack() as stack:
            backends = [free_port(), free_port()]
            for number, port in enumerate(backends):
                command = [str(self.folder / "backend"), str(port), str(INTERVAL_MS), "40"]
                ready = partial(answers, f"http://127.0.0.1:{port}/health")
                stack.enter_context(running(command, self.folder / f"backend-{number}.log", ready))
            try:
                self._redis_port = stack.enter_context(running_redis(self.folder))
            except DidNotStart as problem:
                self.invalid.append(str(problem))
            services = Services(self._collector.endpoint, self._redis_port)
            everything = systems(self.port, free_port(), backends, services, self.folder)
            for number in range(self.plan.rounds):
                self._direct(backends[0])
                # The order changes each round, so that warm-up and heat affect every system.
                turn = number % len(everything)
                for system in everything[turn:] + everything[:turn]:
                    self._measure(system)
        return self._report(everything)

    def _direct(self, backend: int) -> None:
        kept, self.port = self.port, backend
        print("direct", flush=True)
        self._open_loop("direct", None)
        gap = self._streams("direct", None, 1000)
        if off_pace(gap):
            self.invalid.append(f"direct: gap p99 of {gap:.1f} ms, the backends send every {INTERVAL_MS} ms")
        self.port = kept

    def _measure(self, system: System) -> None:
        log = self.folder / f"{system.name}.log"
        print(f"{system.name}: {system.shown()}", flush=True)
        self._answered, traced_before = 0, self._collector.requests
        ready = partial(answers, f"http://127.0.0.1:{self.port}{system.ready_path}")
        try:
            with running(system.command, log, ready, system.env) as pid:
                time.sleep(1.0)
                self._warm_up(system.name, pid)
                if system.name == OURS_WITH_REDIS:
                    self._requests(system.name, pid, 32, 1024)
                    self._sessions(system.name, pid)
                    self._idle_sessions(system.name, pid, log)
                else:
                    self._whole(system.name, pid)
        except DidNotStart as problem:
            self.invalid.append(f"{system.name}: {problem}")
            return
        if system.name in (OURS, OURS_WITH_REDIS):
            self._traced(system.name, self._collector.requests - traced_before)

    def _whole(self, name: str, pid: int) -> None:
        for connections in (1, 32):
            self._requests(name, pid, connections, 1024)
        self._requests(name, pid, 32, 32 * 1024)
        self._open_loop(name, pid)
        for streams in self.plan.streams:
            self._streams(name, pid, streams)
        if not self.plan.quick:
            self._answers(name, pid)
        if name == OURS:  # last, because session pins take memory that would count for the streams
            self._sessions(name, pid)

    def _warm_up(self, name: str, pid: int) -> None:
        for _ in range(15):
            self._load(name, pid, "warm-up", "closed", 32, 1.0, 1024)
            if self._answered >= WARM_ANSWERS:
                break
        self._at_rest_kb = resident_kb(pid)
        self._keep(name, "memory_at_rest_mb", self._at_rest_kb / 1024)

    def _sessions(self, name: str, pid: int) -> None:
        for seconds in (2.0, 4.0, 8.0, 16.0):
            # Low concurrency: with ten thousand new sessions, a saturated router would find Redis slow and
            # skip it.
            _, found = self._load(name, pid, "first of each", "closed", 4, seconds, 1024, SESSION_HEADER)
            if found["ok"] > SESSIONS:
                break
        self._requests(name, pid, 32, 1024, "_sessions", SESSION_HEADER)

    def _idle_sessions(self, name: str, pid: int, log: Path) -> None:
        time.sleep(IDLE_SECONDS)
        cpu, found = self._load(name, pid, "idle sessions", "closed", 32, 1.0, 1024, SESSION_HEADER)
        self._keep(name, "cpu_us_per_request_c32_1kb_idle_sessions", cpu / max(1, found["ok"]) * 1e6)
        if (held := keys(self._redis_port or 0)) < SESSIONS:
            self.invalid.append(f"{name}: {held} of {SESSIONS} pins are in Redis")
        if b'"event":"degraded"' in log.read_bytes():
            self.invalid.append(f"{name}: it did without Redis for a time, see {log.name}")

    def _traced(self, name: str, traced: int) -> None:
        self._keep(name, "traced_percent", traced / max(1, self._answered) * 100)
        if untraced(traced, self._answered):
            self.invalid.append(f"{name}: spans of {traced} of {self._answered} requests arrived")

    def _requests(
        self, name: str, pid: int, connections: int, size: int, kind: str = "", header: str = ""
    ) -> None:
        what = f"c{connections}_{size // 1024}kb{kind}"
        cpu, found = self._load(name, pid, what, "closed", connections, self.plan.seconds, size, header)
        self._keep(name, f"cpu_us_per_request_{what}", cpu / max(1, found["ok"]) * 1e6)
        if connections == 32:
            self._keep(name, f"requests_per_second_{what}", found["per_second"])

    def _open_loop(self, name: str, pid: int | None) -> None:
        _, found = self._load(name, pid, "open", "open", 200, self.plan.seconds * 2, 8)
        if found["late_ratio"] > LATE_LIMIT:
            self.invalid.append(f"{name}: load generator late for {found['late_ratio']:.1%} of its sends")
        self._keep(name, "ttft_p50_ms", found["ttft_ms"]["p50"])
        self._keep(name, "ttft_p99_ms", found["ttft_ms"]["p99"])

    def _streams(self, name: str, pid: int | None, streams: int) -> float:
        """Returns the gap p99 in milliseconds."""
        peak = _Peak(pid)
        cpu, found = self._load(
            name, pid, f"streams {streams}", "streams", streams, self.plan.chunks, 1, during=peak.look
        )
        self._keep(name, f"cpu_us_per_chunk_{streams}", cpu / max(1, found["chunks"]) * 1e6)
        gap = float(found["gap_ms"]["p99"])
        self._keep(name, f"gap_p99_ms_{streams}", gap)
        self._keep(name, f"failed_{streams}", found["failed"])
        if pid is not None and streams == max(self.plan.streams):
            self._keep(name, f"kb_per_stream_{streams}", max(0, peak.highest - self._at_rest_kb) / streams)
        return gap

    def _answers(self, name: str, pid: int) -> None:
        cpu, found = self._load(name, pid, "answers", "streams", ANSWERS, ANSWER_TOKENS, 1)
        self._keep(name, "cpu_us_per_answer_256_tokens", cpu / max(1, found["ok"]) * 1e6)

    def _load(
        self,
        name: str,
        pid: int | None,
        what: str,
        *arguments: object,
        during: Callable[[], None] | None = None,
    ) -> tuple[float, dict[str, Any]]:
        before = cpu_seconds(pid) if pid is not None else 0.0
        command = [str(self.folder / "loadgen"), str(self.port), *(str(a) for a in arguments)]
        generator = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while during is not None and generator.poll() is None:
            during()
            time.sleep(0.2)
        output, _ = generator.communicate()
        cpu = (cpu_seconds(pid) if pid is not None else 0.0) - before
        if generator.returncode:
            raise DidNotStart(f"the load generator failed at {what}: {output.decode(errors='replace')}")
        found: dict[str, Any] = json.loads(output)
        self._answered += found["ok"]
        if found["failed"]:
            self.invalid.append(f"{name}: {found['failed']} failed answers at {what}")
        return cpu, found

    def _keep(self, name: str, what: str, value: float) -> None:
        self.results.setdefault(name, {}).setdefault(what, []).append(value)

    def _report(self, everything: list[System]) -> dict[str, Any]:
        return {
            "quick": self.plan.quick,
            "rounds": self.plan.rounds,
            "machine": {"cores": os.cpu_count(), "load_average_at_end": os.getloadavg()[0]},
            "interpreter": described(ROOT / ".venv" / "bin" / "python"),
            "commands": {system.name: system.shown() for system in everything},
            "invalid": self.invalid,
            "medians": {
                name: {what: statistics.median(values) for what, values in measures.items()}
                for name, measures in self.results.items()
            },
            "all": self.results,
        }


class _Peak:
    """Samples the highest resident memory while streams run."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self.highest = resident_kb(pid) if pid is not None else 0

    def look(self) -> None:
        if self._pid is not None:
            self.highest = max(self.highest, resident_kb(self._pid))


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write. Exit 1 when a measurement is invalid."""
    if os.environ.get("SCALE") == "1":
        return scale.main()
    quick = os.environ.get("QUICK") == "1"
    plan = Plan(quick, int(os.environ.get("ROUNDS") or (1 if quick else 3)))
    folder = ROOT / ".run" / "bench" / time.strftime("%Y%m%dT%H%M%S")
    folder.mkdir(parents=True)
    with collecting() as collector:
        report = Bench(plan, folder, collector).run()
    (folder / "bench.json").write_text(json.dumps(report, indent=1))
    draw(report, folder / "bench.svg")
    print(table(report))
    print(f"\nwritten to {folder.relative_to(ROOT)}: bench.json, bench.svg")
    for problem in report["invalid"]:
        print(f"INVALID: {problem}")
    return 1 if report["invalid"] else 0


if __name__ == "__main__":
    sys.exit(main())
