"""Differences between two groups of requests with confidence intervals, by the percentile bootstrap over requests.

Requests, not single values, are resampled, because the values of one request (the gaps of its stream) depend on each
other. Needs numpy (the extra `bootstrap`). Must not know records, reports or where the requests come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95

Drawn = NDArray[np.int32]
"""How often each request was drawn, by its index; shape (requests,)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``b - a`` of one statistic with its confidence interval, in the unit of the statistic."""

    name: str
    a: float
    b: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Return whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


class Statistic(Protocol):
    """One or more figures of a group of requests."""

    @property
    def names(self) -> Sequence[str]:
        """The name of each figure."""

    def figures(self, drawn: Drawn) -> Sequence[float]:
        """Return the figures of the drawn requests; NaN for a figure without values."""


class Quantiles:
    """Quantiles, by the nearest rank, of values that belong to requests.

    The values are sorted once. A resample counts how often it drew each request and walks the sorted values up to the
    rank of the quantile.

    Args:
        named: the quantiles (0 to 1) by the name of their figure.
        values: the values; a request may have none, one or several.
        owners: the index of each value's request, as long as ``values``.
    """

    def __init__(self, named: Mapping[str, float], values: Sequence[float], owners: Sequence[int]) -> None:
        order = np.argsort(values)
        self.names = tuple(named)
        self._quantiles = np.array(list(named.values()))
        self._values = np.asarray(values, dtype=float)[order]
        self._owners = np.asarray(owners, dtype=np.intp)[order]

    def figures(self, drawn: Drawn) -> Sequence[float]:
        """Return each quantile of the drawn requests; NaN without values."""
        passed = np.cumsum(drawn[self._owners])
        if not len(passed) or not passed[-1]:
            return [float("nan")] * len(self.names)
        ranks = np.ceil(self._quantiles * passed[-1])
        return [float(value) for value in self._values[np.searchsorted(passed, ranks)]]


class Mean:
    """The mean of values that belong to requests. ``owners`` has the index of each value's request."""

    def __init__(self, name: str, values: Sequence[float], owners: Sequence[int]) -> None:
        self.names = (name,)
        self._values = np.asarray(values, dtype=float)
        self._owners = np.asarray(owners, dtype=np.intp)

    def figures(self, drawn: Drawn) -> Sequence[float]:
        """Return the mean over the drawn requests; NaN without values."""
        weights = drawn[self._owners]
        total = int(weights.sum())
        return [float(weights @ self._values) / total if total else float("nan")]


class Ratio:
    """The share of the counted requests that are hits. ``hits`` and ``counted`` have one flag for each request."""

    def __init__(self, name: str, hits: Iterable[bool], counted: Iterable[bool]) -> None:
        self.names = (name,)
        self._counted = np.fromiter(counted, dtype=np.int32)
        self._hits = np.fromiter(hits, dtype=np.int32) * self._counted

    def figures(self, drawn: Drawn) -> Sequence[float]:
        """Return the share among the drawn requests; NaN without a counted request."""
        counted = int(drawn @ self._counted)
        return [int(drawn @ self._hits) / counted if counted else float("nan")]


class Sample:
    """One group of ``size`` requests with its statistics. Groups that are compared have the same statistics."""

    def __init__(self, size: int, statistics: Sequence[Statistic]) -> None:
        self.size = size
        self.statistics = statistics
        self.names = [name for statistic in statistics for name in statistic.names]

    def figures(self, drawn: Drawn | None = None) -> NDArray[np.float64]:
        """Return every figure of the drawn requests, by default of each request once; shape (names,)."""
        if drawn is None:
            drawn = np.ones(self.size, dtype=np.int32)
        return np.array([figure for one in self.statistics for figure in one.figures(drawn)])

    def resampled(self, draws: np.random.Generator) -> NDArray[np.float64]:
        """Return every figure of one resample: equally many requests, drawn with replacement."""
        drawn = np.bincount(draws.integers(self.size, size=self.size), minlength=self.size)
        return self.figures(drawn.astype(np.int32))


def differences(
    a: Sample, b: Sample, seed: int = 1, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> list[Difference]:
    """Compare ``b`` with ``a``. The same input and ``seed`` give the same result.

    A figure that one of the groups lacks is omitted; with an empty group the result is empty.
    """
    assert a.names == b.names
    if not a.size or not b.size:
        return []
    draws = np.random.default_rng(seed)
    again = np.array([b.resampled(draws) - a.resampled(draws) for _ in range(resamples)])
    tail = (1 - confidence) / 2
    found = []
    for name, of_a, of_b, resampled in zip(a.names, a.figures(), b.figures(), again.T, strict=True):
        known = resampled[~np.isnan(resampled)]
        if np.isnan(of_a) or np.isnan(of_b) or not len(known):
            continue
        low, high = np.quantile(known, [tail, 1 - tail])
        found.append(Difference(name, float(of_a), float(of_b), float(low), float(high)))
    return found
