"""`make capacity`: the highest rate of a workload that holds its SLO, found by search.

Exit 0: found. 1: not even the lowest rate holds it, or a run was invalid. 2: bad input.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable

import run
import workloads
from reports.saturation import Evidence, limiting_resource

LOWEST_RATE = 0.1


def highest_rate(holds: Callable[[float], bool], start: float, precision: float) -> float | None:
    """Return the highest rate (requests/s) for which ``holds``, within ``precision`` (a ratio).

    Doubles or halves from ``start`` until the answer changes, then bisects on a logarithmic scale.
    Assumes that a system that fails at one rate fails at every higher one; noise near the limit makes
    the result the highest rate that was *seen* to hold. None: not even ``LOWEST_RATE`` holds.
    """
    good: float | None = None
    bad: float | None = None
    rate = start
    while good is None or bad is None:
        if holds(rate):
            good, rate = rate, rate * 2
        else:
            bad, rate = rate, rate / 2
            if good is None and rate < LOWEST_RATE:
                return None
    while bad / good > 1 + precision:
        rate = (good * bad) ** 0.5
        if holds(rate):
            good = rate
        else:
            bad = rate
    return good


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        workload = workloads.load(options.workload)
        environment = run.client_environment(os.environ, options.target)
    except (workloads.BadWorkload, ValueError) as problem:
        print(f"capacity: {problem}", file=sys.stderr)
        return 2
    folder = run.new_folder("capacity")
    steps: list[dict[str, object]] = []
    evidence: list[Evidence] = []

    def holds(rate: float) -> bool:
        """Whether one of two trials holds: a machine's own hiccup must not halve its capacity."""
        return trial(rate) or trial(rate)

    def trial(rate: float) -> bool:
        plan = run.Plan(
            name=options.workload,
            workload=workload,
            rate_per_second=rate,
            duration_seconds=options.seconds,
            seed=options.seed + len(steps),
            environment=environment,
        )
        summary = run.run_once(plan, folder / f"{len(steps):02d}")
        found = limiting_resource(
            options.prometheus, summary.numbers["started_at"], summary.numbers["ended_at"]
        )
        said = "holds" if summary.passed else "does not hold"
        print(f"{rate:8.2f} requests/s {said}: {run.one_line(summary)}", flush=True)
        steps.append({"rate_per_second": rate, "holds": summary.passed, **summary.numbers})
        if not summary.passed:
            evidence.append(found)
        return summary.passed

    try:
        rate = highest_rate(holds, options.start or workload.rate_per_second, options.precision)
    except run.GeneratorFailed as failure:
        print(f"capacity: {failure}", file=sys.stderr)
        return 1
    stopped_by = evidence[-1] if evidence else None
    result = {"workload": options.workload, "rate_per_second": rate, "stopped_by": stopped_by, "steps": steps}
    (folder / "capacity.json").write_text(json.dumps(result, indent=2, default=lambda e: e.as_dict()) + "\n")
    if rate is None:
        print(f"capacity: not even {LOWEST_RATE} requests/s hold the SLO; see {folder}", file=sys.stderr)
        return 1
    print(f"capacity of {options.workload}: {rate:.2f} requests/s ({folder / 'capacity.json'})")
    print(f"what stopped it: {stopped_by.sentence if stopped_by else 'unknown'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="capacity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", default="fixed-rate", help="a folder under load-testing/workloads")
    parser.add_argument("--start", type=float, default=0.0, help="first rate tried; 0: the workload's own")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each trial")
    parser.add_argument("--precision", type=float, default=0.1, help="stop when within this ratio")
    parser.add_argument("--target", help="base URL ending in /v1 (default: the local stack's edge)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prometheus", default=run.PROMETHEUS, help="URL that knows the verdict")
    return parser


if __name__ == "__main__":
    sys.exit(main())
