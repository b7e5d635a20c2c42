"""Computes the exact growth of counters between two times, across restarts of the counting process.

PromQL's `increase` extrapolates to the edges of its window, so its sums do not add up. A plain difference of two
values hides a restart once the new count has passed the old one.
"""

import itertools
from collections.abc import Callable, Iterable

from platform_contracts.prometheus import Series

Labels = dict[str, str]
Key = tuple[tuple[str, str], ...]
Samples = list[tuple[float, float]]
"""(epoch seconds, value), in order of time."""

Ask = Callable[[str, float], list[Series]]
"""Evaluates PromQL at an epoch time."""

STARTED = "process_start_time_seconds"


def growth(ask: Ask, selector: str, start: float, end: float) -> list[tuple[Labels, float]]:
    """Return the growth of each series of ``selector`` from ``start`` to ``end`` (epoch seconds).

    A series that does not exist at ``start`` begins at 0. The samples in between are read only if a value fell or a
    process started.
    """
    first = _values(ask(selector, start))
    span = f"[{round((end - start) * 1e3)}ms]"
    restarts = " + ".join(
        f"(sum({what}) or vector(0))" for what in (f"resets({selector}{span})", f"changes({STARTED}{span})")
    )
    if not any(one.points[-1][1] for one in ask(restarts, end)):
        return [
            (dict(key), value - first.get(key, 0.0)) for key, value in _values(ask(selector, end)).items()
        ]
    starts = _starts(ask(f"{STARTED}{span}", end))
    found = []
    for series in ask(f"{selector}{span}", end):
        before = (start, first.get(_key(series.labels), 0.0))
        restarted = starts.get(series.labels.get("instance", ""), ())
        found.append((series.labels, grown([before, *series.points], restarted)))
    return found


def grown(samples: Samples, starts: Iterable[float]) -> float:
    """Return the growth from the first sample to the last. A counter restarts at 0 when its process starts."""
    total = 0.0
    began = sorted(starts)
    for (earlier, old), (later, new) in itertools.pairwise(samples):
        again = new < old or any(earlier < at <= later for at in began)
        total += new if again else new - old
    return total


def _values(result: Iterable[Series]) -> dict[Key, float]:
    return {_key(series.labels): series.points[-1][1] for series in result}


def _key(labels: Labels) -> Key:
    return tuple(sorted(labels.items()))


def _starts(result: Iterable[Series]) -> dict[str, tuple[float, ...]]:
    """Return the start times of processes by instance."""
    found: dict[str, set[float]] = {}
    for series in result:
        values = {value for _, value in series.points}
        found.setdefault(series.labels.get("instance", ""), set()).update(values)
    return {instance: tuple(values) for instance, values in found.items()}
