"""`make capacity`: searches for the highest rate of a workload that keeps its SLO.

Exit 0: found. 1: not even the lowest rate keeps it, or a run was invalid. 2: bad input.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from load_testing import run, workloads
from load_testing.reports.saturation import Evidence, limiting_resource
from load_testing.reports.summary import Summary

LOWEST_RATE = 0.1
FINEST_PRECISION = 0.01


def highest_rate(holds: Callable[[float], bool], start: float, precision: float) -> float | None:
    """Return the highest rate (requests/s) for which ``holds``, within ``precision`` (a ratio above 0).

    Doubles or halves from ``start`` until the answer changes, then bisects on a logarithmic scale; tries nothing
    below ``LOWEST_RATE``. Assumes that a system that fails at one rate fails at every higher one; noise near the
    limit makes the result the highest rate that was *seen* to hold. None: not even ``LOWEST_RATE`` holds.
    """
    good: float | None = None
    bad: float | None = None
    rate = max(start, LOWEST_RATE)
    while good is None or bad is None:
        if holds(rate):
            good, rate = rate, rate * 2
        elif rate <= LOWEST_RATE:
            return None
        else:
            bad, rate = rate, max(rate / 2, LOWEST_RATE)
    while bad / good > 1 + precision:
        rate = (good * bad) ** 0.5
        if holds(rate):
            good = rate
        else:
            bad = rate
    return good


class NoCapacity(Exception):
    """The search found no capacity; the message says why."""


class Search:
    """The trials of one search, each a run in a separate folder."""

    def __init__(self, options: argparse.Namespace, environment: Mapping[str, str], folder: Path) -> None:
        self._options = options
        self._environment = environment
        self._folder = folder
        self._workload = workloads.load(options.workload)
        self._prometheus = run.prometheus_of(environment["OPENAI_BASE_URL"], options.prometheus, os.environ)
        self.steps: list[dict[str, Any]] = []
        self.stopped_by: Evidence | None = None

    def capacity(self) -> float:
        """Return the highest rate that holds.

        Raises:
            NoCapacity: not even the lowest rate holds, or the generator reached its limit before the
            platform. run.GeneratorFailed: a trial did not run to its end.
        """
        start = self._options.start or self._workload.rate_per_second
        rate = highest_rate(self._holds, start, self._options.precision)
        if rate is None:
            raise NoCapacity(f"not even {LOWEST_RATE} requests/s hold the SLO")
        return rate

    def _holds(self, rate: float) -> bool:
        """Return whether one of two trials holds, so that a single disturbance does not halve the result."""
        trials = []
        for _ in range(2):
            trials.append(self._trial(rate))
            if trials[-1].passed:
                return True
        valid = [summary for summary in trials if not summary.invalid]
        if not valid:
            self.stopped_by = Evidence("generator", why=trials[-1].invalid[0])
            held = max((step["rate_per_second"] for step in self.steps if step["holds"]), default=0.0)
            raise NoCapacity(
                f"the generator stopped the search at {rate:.2f} requests/s ({trials[-1].invalid[0]}); "
                f"the highest rate that held before is {held:.2f}"
            )
        numbers = valid[-1].numbers
        self.stopped_by = limiting_resource(self._prometheus, numbers["started_at"], numbers["ended_at"])
        return False

    def _trial(self, rate: float) -> Summary:
        plan = run.Plan(
            name=self._options.workload,
            workload=self._workload,
            rate_per_second=rate,
            duration_seconds=self._options.seconds,
            seed=self._options.seed + len(self.steps),
            environment=self._environment,
        )
        summary = run.run_once(plan, self._folder / f"{len(self.steps):02d}")
        said = "holds" if summary.passed else "is invalid" if summary.invalid else "does not hold"
        print(f"{rate:8.2f} requests/s {said}: {run.one_line(summary)}", flush=True)
        self.steps.append({"rate_per_second": rate, "holds": summary.passed, **summary.numbers})
        return summary


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    folder = run.new_folder("capacity")
    try:
        search = Search(options, run.client_environment(os.environ, options.target), folder)
    except (workloads.BadWorkload, run.BadTarget) as problem:
        print(f"capacity: {problem}", file=sys.stderr)
        return 2
    try:
        rate = search.capacity()
    except (run.GeneratorFailed, NoCapacity) as failure:
        _write(folder, options.workload, search, None)
        print(f"capacity: {failure}; see {folder}", file=sys.stderr)
        return 1
    _write(folder, options.workload, search, rate)
    print(f"capacity of {options.workload}: {rate:.2f} requests/s ({folder / 'capacity.json'})")
    print(f"what stopped it: {search.stopped_by.sentence if search.stopped_by else 'nothing'}")
    return 0


def _write(folder: Path, workload: str, search: Search, rate: float | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "workload": workload,
        "rate_per_second": rate,
        "stopped_by": search.stopped_by.as_dict() if search.stopped_by else None,
        "steps": search.steps,
    }
    (folder / "capacity.json").write_text(json.dumps(result, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="capacity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", default="fixed-rate", help="the name of a workload")
    parser.add_argument(
        "--start", type=run.rate, default=0.0, help="first rate tried (default: the workload's own)"
    )
    parser.add_argument("--seconds", type=run.seconds, default=30.0, help="length of each trial, or 2m")
    parser.add_argument("--precision", type=_precision, default=0.1, help="stop when within this ratio")
    parser.add_argument("--target", help="base URL ending in /v1 (default: the local stack's edge)")
    parser.add_argument("--seed", type=int, default=1)
    run.add_prometheus(parser)
    return parser


def _precision(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not FINEST_PRECISION <= value <= 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not a ratio from {FINEST_PRECISION} to 1, such as 0.1')
    return value


if __name__ == "__main__":
    sys.exit(main())
