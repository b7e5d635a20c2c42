"""Runs one test tier in a separate pytest.

Owns each tier's selection of tests. Does not choose tiers or install dependencies.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
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
    "service": ("service and not platform", []),
    "platform": ("platform", []),
}
"""Each tier's marks and how its tests are spread. Tests of real processes run one at a time."""

BEHIND, BESIDE = "programs", "service"
"""The first tier runs behind the second: its tests compute and do not measure time, and the second's mostly wait."""

NICENESS = 10
"""Added to the priority of the tier that runs behind, so that it takes only CPU time that the other leaves."""


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

    def _wait(self, report: str) -> Tier:
        try:
            code = self._child.wait()
        except KeyboardInterrupt:
            self.interrupt()
            raise
        return read_junit(Tier(self._name), report_of(report), code)

    def interrupt(self) -> None:
        """Interrupt the run like Ctrl-C and wait until it has ended."""
        self._child.send_signal(signal.SIGINT)
        self._child.wait()

    def finish(self) -> Tier:
        """Wait for the tier, repeat a few failures (docs/adr/0011), and return the result."""
        tier = self._wait(self._name)
        if self._output:
            print(f"\n=== {self._name}: output", flush=True)
            print(self._output.read_text(errors="replace"), flush=True)
        tier.seconds = time.monotonic() - self._began
        if self._name != "contract" and may_be_looked_at_again(tier):
            began = time.monotonic()
            again = ["--last-failed", "--last-failed-no-failures=none", *self._arguments]
            self._child = self._start(f"{self._name}-again", again, None)
            merge_second_look(tier, self._wait(f"{self._name}-again"))
            tier.seconds += time.monotonic() - began
        return tier


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
    """Run the chosen tiers in the order of `TIERS`; the programs tier runs behind the service tier if both are chosen."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    pair = {BEHIND, BESIDE} <= set(chosen)
    results: dict[str, Tier] = {}
    behind: TierRun | None = None
    try:
        for name in (name for name in TIERS if name in chosen):
            if pair and name == BEHIND:
                behind = TierRun(name, arguments, behind=True)
                continue
            results[name] = TierRun(name, arguments).finish()
            if name == BESIDE and behind is not None:
                # Both end before the platform tier starts, because its engines need both cores.
                results[BEHIND], behind = behind.finish(), None
    except KeyboardInterrupt:
        if behind is not None:
            behind.interrupt()
        raise
    return [results[name] for name in TIERS if name in results]
