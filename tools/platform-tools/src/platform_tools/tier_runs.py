"""Runs each test tier in a separate pytest.

Owns each tier's selection of tests, and the order and priority of the tiers. Does not choose tiers or install
dependencies.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from platform_tools.checkout import PLATFORM_PYTHON, ROOT
from platform_tools.tier_report import Tier, may_be_looked_at_again, merge_second_look, read_junit

REPORTS = ROOT / ".run" / "test"
TIERS = {
    "contract": (
        "not programs and not service and not platform and not cluster",
        ["-n", "2", "--dist", "loadfile"],
    ),
    "programs": ("programs", []),
    "untimed": ("service and untimed and not platform", []),
    "service": ("service and not untimed and not platform", []),
    "platform": ("platform", []),
}
"""Each tier's marks and how its tests are spread. Tests of real processes run one at a time."""

BEHIND, BESIDE = ("programs", "untimed"), "service"
"""The first tiers run behind the last, at the same time: their results do not depend on time, and its tests mostly wait."""

NICENESS = 10
"""Added to the priority of the tiers that run behind, so that they take only CPU time that the other leaves."""


class TierRun:
    """One tier that has been started. ``finish`` waits for it and returns its result.

    ``behind``: run at low priority and print the output only at the end, because another tier prints meanwhile.
    """

    def __init__(self, name: str, arguments: list[str], *, behind: bool = False) -> None:
        self._name = name
        self._arguments = arguments
        self._began = time.monotonic()
        self._output = REPORTS / f"{name}.log" if behind else None
        self._child = self._start(name, arguments, self._output)

    def _start(self, report: str, arguments: list[str], output: Path | None) -> "subprocess.Popen[bytes]":
        command = command_of(self._name, arguments, report)
        where = f" (behind {BESIDE}; output follows when it ends)" if output else ""
        print(f"\n=== {report}{where}: {shlex.join(command[1:])}", flush=True)
        report_of(report).unlink(missing_ok=True)
        start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
        if output is None:
            return start(command, cwd=ROOT, stdin=subprocess.DEVNULL)
        with output.open("wb") as file:
            niced = ["nice", "-n", str(NICENESS), *command]
            return start(niced, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)

    def wait(self) -> float:
        """Wait until the run ends; return its duration in seconds."""
        self._child.wait()
        return time.monotonic() - self._began

    def interrupt(self) -> None:
        """Interrupt the run like Ctrl-C and wait until it has ended."""
        self._child.send_signal(signal.SIGINT)
        self._child.wait()

    def _result(self, report: str) -> Tier:
        try:
            code = self._child.wait()
        except KeyboardInterrupt:
            self.interrupt()
            raise
        return read_junit(Tier(self._name), report_of(report), code)

    def finish(self, seconds: float | None = None) -> Tier:
        """Wait for the tier, repeat a few failures (docs/adr/0011), and return the result.

        ``seconds``: the duration, if the tier ended before this call.
        """
        tier = self._result(self._name)
        tier.seconds = time.monotonic() - self._began if seconds is None else seconds
        if self._output:
            print(f"\n=== {self._name}: output", flush=True)
            print(self._output.read_text(errors="replace"), flush=True)
        if self._name != "contract" and may_be_looked_at_again(tier):
            began = time.monotonic()
            again = ["--last-failed", "--last-failed-no-failures=none", *self._arguments]
            self._child = self._start(f"{self._name}-again", again, None)
            merge_second_look(tier, self._result(f"{self._name}-again"))
            tier.seconds += time.monotonic() - began
        return tier


class Background:
    """Tiers that run at the same time at low priority. ``finish`` waits for them and returns their results."""

    def __init__(self, names: Sequence[str], arguments: list[str]) -> None:
        self._runs = {name: TierRun(name, arguments, behind=True) for name in names}
        self._pool = ThreadPoolExecutor(len(self._runs))
        self._seconds = {name: self._pool.submit(run.wait) for name, run in self._runs.items()}

    def interrupt(self) -> None:
        """Interrupt the running tiers like Ctrl-C and wait until they have ended."""
        for run in self._runs.values():
            run.interrupt()
        self._pool.shutdown()

    def finish(self) -> dict[str, Tier]:
        """Wait for every tier, then print the outputs and repeat a few failures; return the results by name."""
        seconds = {name: took.result() for name, took in self._seconds.items()}
        self._pool.shutdown()
        return {name: run.finish(seconds[name]) for name, run in self._runs.items()}


def report_of(report: str) -> Path:
    """Return the JUnit file of a run."""
    return REPORTS / f"{report}.xml"


def command_of(name: str, arguments: list[str], report: str) -> list[str]:
    """Return pytest's command for a tier's tests, filtered by ``arguments``.

    Each tier has a separate cache, because parallel runs would overwrite each other's list of failures.
    """
    marks, spread = TIERS[name]
    selected = marks if os.environ.get("FULL") == "1" else f"({marks}) and not full"
    command = [str(PLATFORM_PYTHON), "-m", "pytest", "-q", "-m", selected, *spread]
    cache = (REPORTS / f"cache-{name}").relative_to(ROOT)
    return [*command, "-o", f"cache_dir={cache}", f"--junitxml={report_of(report)}", *arguments]


def run_chosen(chosen: list[str], arguments: list[str]) -> list[Tier]:
    """Run the chosen tiers in the order of `TIERS`; those of `BEHIND` run behind the service tier if it is chosen."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    behind = [name for name in BEHIND if name in chosen and BESIDE in chosen]
    results: dict[str, Tier] = {}
    background: Background | None = None
    try:
        for name in (name for name in TIERS if name in chosen and name not in behind):
            if name == BESIDE and behind:
                background = Background(behind, arguments)
            results[name] = TierRun(name, arguments).finish()
            if name == BESIDE and background is not None:
                # All end before the platform tier starts, because its engines need both cores.
                results |= background.finish()
                background = None
    finally:
        if background is not None:
            background.interrupt()
    return [results[name] for name in TIERS if name in results]
