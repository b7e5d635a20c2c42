"""Reads raw samples of one time span from Prometheus. Judges nothing."""

import itertools
from collections.abc import Iterator

from observability.why_ttft.windows import ask
from platform_contracts.prometheus import Prometheus

Samples = list[tuple[float, float]]
"""(epoch seconds, value), in order of time."""


def read_samples(
    prometheus: Prometheus, selector: str, start: float, end: float
) -> Iterator[tuple[dict[str, str], Samples]]:
    """Yield the labels and samples of every series of ``selector`` between two epoch times.

    Raises:
        CannotSay: Prometheus does not respond, or refuses the query.
    """
    for series in ask(prometheus, f"{selector}[{max(round((end - start) * 1e3), 1)}ms]", end):
        yield series.labels, series.points


def changes_of(samples: Samples) -> Iterator[tuple[float, float, float]]:
    """Yield (time, old value, new value) of every sample that differs from the one before."""
    for (_, old), (at, new) in itertools.pairwise(samples):
        if new != old:
            yield at, old, new


def since(samples: Samples, value: float) -> float | None:
    """Return since when every sample equals ``value``, None if the last sample differs."""
    began = None
    for at, found in reversed(samples):
        if found != value:
            break
        began = at
    return began
