"""How much counters grew between two times, exactly, also where what counts was restarted in between.

PromQL's `increase` extrapolates to the edges of its window, so sums over it do not add up; a difference of two
values takes a restart for growth once the new count has passed the old one.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Labels = dict[str, str]
Key = tuple[tuple[str, str], ...]
Samples = list[tuple[float, float]]
"""(epoch seconds, value), in order of time."""

Ask = Callable[[str, float], list[dict[str, Any]]]
"""Evaluates PromQL at an epoch time and returns `data.result`."""

STARTED = "process_start_time_seconds"


def growth(ask: Ask, selector: str, start: float, end: float) -> list[tuple[Labels, float]]:
    """Return by how much each series of ``selector`` grew from ``start`` to ``end`` (epoch seconds).

    A series that is not there at ``start`` began at 0. The samples in between are read only where one fell, or a
    process that counts was started.
    """
    first = _values(ask(selector, start))
    span = f"[{round((end - start) * 1e3)}ms]"
    restarts = " + ".join(
        f"(sum({what}) or vector(0))" for what in (f"resets({selector}{span})", f"changes({STARTED}{span})")
    )
    if not any(float(one["value"][1]) for one in ask(restarts, end)):
        return [
            (dict(key), value - first.get(key, 0.0)) for key, value in _values(ask(selector, end)).items()
        ]
    starts = _starts(ask(f"{STARTED}{span}", end))
    found = []
    for series in ask(f"{selector}{span}", end):
        labels: Labels = series["metric"]
        samples = [(float(at), float(value)) for at, value in series["values"]]
        before = (start, first.get(_key(labels), 0.0))
        found.append((labels, grown([before, *samples], starts.get(labels.get("instance", ""), ()))))
    return found


def grown(samples: Samples, starts: Iterable[float]) -> float:
    """Return the growth from the first sample to the last; after a start of its process a counter counts from 0."""
    total = 0.0
    began = sorted(starts)
    for (earlier, old), (later, new) in itertools.pairwise(samples):
        again = new < old or any(earlier < at <= later for at in began)
        total += new if again else new - old
    return total


def _values(result: Iterable[Mapping[str, Any]]) -> dict[Key, float]:
    return {_key(series["metric"]): float(series["value"][1]) for series in result}


def _key(labels: Labels) -> Key:
    return tuple(sorted(labels.items()))


def _starts(result: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, ...]]:
    """When processes were started, by the instance that says so."""
    found: dict[str, set[float]] = {}
    for series in result:
        values = {float(value) for _, value in series["values"]}
        found.setdefault(series["metric"].get("instance", ""), set()).update(values)
    return {instance: tuple(values) for instance, values in found.items()}
