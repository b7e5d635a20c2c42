"""`make bench`: measures our router and its peers in turn and prints the table of ratios.

QUICK=1 makes it short (under three minutes); ROUNDS=n repeats it and takes medians. Loopback only.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.processes import DidNotStart, cpu_seconds, resident_kb, running
from bench.report import draw, table
from bench.systems import ROOT, System, systems

NATIVE = Path(__file__).resolve().parent / "native"
LATE_LIMIT = 0.01
"""A run whose load generator sent more than this share over 1 ms late says nothing about a router."""

INTERVAL_MS = 50
"""Between chunks of a stream: 20 chunks a second each."""


@dataclass(slots=True)
class Plan:
    """How long everything is measured."""

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

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.port = _free_port()
        self.invalid: list[str] = []
        self.results: dict[str, dict[str, list[float]]] = {}

    def run(self) -> dict[str, Any]:
        """Measure; the report as JSON-ready data."""
        _compile(self.folder)
        with ExitStack() as stack:
            backends = [_free_port(), _free_port()]
            for number, port in enumerate(backends):
                command = [str(self.folder / "backend"), str(port), str(INTERVAL_MS), "40"]
                stack.enter_context(
                    running(command, self.folder / f"backend-{number}.log", f"http://127.0.0.1:{port}/health")
                )
            everything = systems(self.port, _free_port(), backends, self.folder)
            for number in range(self.plan.rounds):
                self._direct(backends[0])
                # Another order each round: whatever warms or heats the machine meets each one in turn.
                turn = number % len(everything)
                for system in everything[turn:] + everything[:turn]:
                    self._measure(system)
        return self._report(everything)

    def _direct(self, backend: int) -> None:
        kept, self.port = self.port, backend
        print("direct", flush=True)
        self._open_loop("direct", None)
        self._streams("direct", None, 1000)
        self.port = kept

    def _measure(self, system: System) -> None:
        log = self.folder / f"{system.name}.log"
        print(f"{system.name}: {system.shown()}", flush=True)
        try:
            with running(system.command, log, f"http://127.0.0.1:{self.port}{system.ready_path}") as pid:
                time.sleep(1.0)
                self._load(system.name, pid, "warm-up", "closed", 32, 1.0, 1024)
                self._keep(system.name, "memory_at_rest_mb", resident_kb(pid) / 1024)
                for connections in (1, 32):
                    self._requests(system.name, pid, connections, 1024)
                self._requests(system.name, pid, 32, 32 * 1024)
                if system.name == "router-service":
                    self._requests(system.name, pid, 32, 1024, "x-session-id: a-session")
                self._open_loop(system.name, pid)
                for streams in self.plan.streams:
                    self._streams(system.name, pid, streams)
        except DidNotStart as problem:
            self.invalid.append(f"{system.name}: {problem}")

    def _requests(self, name: str, pid: int, connections: int, size: int, header: str = "") -> None:
        what = f"c{connections}_{size // 1024}kb" + ("_session" if header else "")
        cpu, found = self._load(
            name, pid, what, "closed", connections, self.plan.seconds, size, *([header] if header else [])
        )
        self._keep(name, f"cpu_us_per_request_{what}", cpu / max(1, found["ok"]) * 1e6)
        if connections == 32:
            self._keep(name, f"requests_per_second_{what}", found["per_second"])

    def _open_loop(self, name: str, pid: int | None) -> None:
        _, found = self._load(name, pid, "open", "open", 200, self.plan.seconds * 2, 8)
        if found["late_ratio"] > LATE_LIMIT:
            self.invalid.append(f"{name}: load generator late for {found['late_ratio']:.1%} of its sends")
        self._keep(name, "ttft_p50_ms", found["ttft_ms"]["p50"])
        self._keep(name, "ttft_p99_ms", found["ttft_ms"]["p99"])

    def _streams(self, name: str, pid: int | None, streams: int) -> None:
        peak = _Peak(pid)
        cpu, found = self._load(
            name, pid, f"streams {streams}", "streams", streams, self.plan.chunks, 1, during=peak.look
        )
        self._keep(name, f"cpu_us_per_chunk_{streams}", cpu / max(1, found["chunks"]) * 1e6)
        self._keep(name, f"gap_p99_ms_{streams}", found["gap_ms"]["p99"])
        self._keep(name, f"failed_{streams}", found["failed"])
        if pid is not None:
            self._keep(name, f"kb_per_stream_{streams}", max(0, peak.highest - peak.before) / streams)

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
            "commands": {system.name: system.shown() for system in everything},
            "invalid": self.invalid,
            "medians": {
                name: {what: statistics.median(values) for what, values in measures.items()}
                for name, measures in self.results.items()
            },
            "all": self.results,
        }


class _Peak:
    """Highest resident memory seen while streams run."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self.before = self.highest = resident_kb(pid) if pid is not None else 0

    def look(self) -> None:
        if self._pid is not None:
            self.highest = max(self.highest, resident_kb(self._pid))


def _compile(folder: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        sys.exit("make bench needs a C compiler for its load generator: apt-get install gcc libc6-dev")
    for name in ("backend", "loadgen"):
        source = NATIVE / f"{name}.c"
        subprocess.run([compiler, "-O2", "-o", str(folder / name), str(source), "-lm"], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run, print, write. Exit 1 when a measurement is invalid."""
    quick = os.environ.get("QUICK") == "1"
    plan = Plan(quick, int(os.environ.get("ROUNDS") or (1 if quick else 3)))
    folder = ROOT / ".run" / "bench" / time.strftime("%Y%m%dT%H%M%S")
    folder.mkdir(parents=True)
    report = Bench(plan, folder).run()
    (folder / "bench.json").write_text(json.dumps(report, indent=1))
    draw(report, folder / "bench.svg")
    print(table(report))
    print(f"\nwritten to {folder.relative_to(ROOT)}: bench.json, bench.svg")
    for problem in report["invalid"]:
        print(f"INVALID: {problem}")
    return 1 if report["invalid"] else 0


if __name__ == "__main__":
    sys.exit(main())
