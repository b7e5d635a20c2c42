"""Compares two runs with confidence intervals, to distinguish a change from noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from load_testing.measure.outcome import Outcome, RequestRecord
from load_testing.reports.summary import keeps_slo
from load_testing.workloads import Slo

RESAMPLES = 1000
CONFIDENCE = 0.95
TTFT, GAP = "ttft {} (s)", "inter-token {} (s)"
QUANTILES = {"p50": 0.5, "p95": 0.95}
GOODPUT = "goodput ratio"


@dataclass(frozen=True, slots=True)
class Difference:
    """``b - a`` of one statistic with its confidence interval (seconds, or a ratio)."""

    name: str
    a: float
    b: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Return whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


class Measured:
    """The values of some requests in order of size, each with the index of its request.

    They are sorted once. A resample counts how often it drew each request and walks the sorted values up to
    the rank of the quantile.
    """

    def __init__(self, values: Sequence[float], owners: Sequence[int]) -> None:
        order = np.argsort(values)
        self._values = np.asarray(values, dtype=float)[order]
        self._owners = np.asarray(owners, dtype=np.intp)[order]

    def quantiles(self, drawn: NDArray[np.int32]) -> list[float]:
        """Return `QUANTILES` by the nearest rank, of the drawn requests, each with its count; NaN without values."""
        passed = np.cumsum(drawn[self._owners])
        if not len(passed) or not passed[-1]:
            return [float("nan")] * len(QUANTILES)
        ranks = np.ceil(np.array(list(QUANTILES.values())) * passed[-1])
        return [float(value) for value in self._values[np.searchsorted(passed, ranks)]]


class Sample:
    """One run's requests, ready to be resampled."""

    def __init__(self, records: Sequence[RequestRecord], slo: Slo) -> None:
        self.size = len(records)
        firsts = [(r.ttft_seconds, i) for i, r in enumerate(records) if r.ttft_seconds is not None]
        self._ttft = Measured([value for value, _ in firsts], [i for _, i in firsts])
        self._gaps = Measured(
            [gap for r in records for gap in r.inter_token_seconds],
            [i for i, r in enumerate(records) for _ in r.inter_token_seconds],
        )
        left_out = (Outcome.ABORTED, Outcome.REFUSED)
        self._counted = np.array([r.outcome not in left_out for r in records], dtype=np.int32)
        self._kept = np.array([keeps_slo(r, slo) for r in records], dtype=np.int32)

    def statistics(self, drawn: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the statistics of `NAMES` for the drawn requests, each with its count; NaN for missing values."""
        counted = int(drawn @ self._counted)
        goodput = int(drawn @ self._kept) / counted if counted else float("nan")
        return np.array([*self._ttft.quantiles(drawn), *self._gaps.quantiles(drawn), goodput])

    def resampled(self, draws: np.random.Generator) -> NDArray[np.float64]:
        """Return the statistics of one resample: equally many requests, drawn with replacement."""
        drawn = np.bincount(draws.integers(self.size, size=self.size), minlength=self.size)
        return self.statistics(drawn.astype(np.int32))


NAMES = (*(TTFT.format(q) for q in QUANTILES), *(GAP.format(q) for q in QUANTILES), GOODPUT)


def compare(
    a: Sequence[RequestRecord], b: Sequence[RequestRecord], slo: Slo, seed: int = 1
) -> list[Difference]:
    """Compare run ``b`` with run ``a`` by the percentile bootstrap over requests, `RESAMPLES` times.

    Requests, not single gaps, are resampled: the gaps inside one answer depend on each other.
    A statistic that one of the runs lacks (for example without streamed requests) is omitted.
    Two runs of 120,000 requests with 16 tokens each take some tens of seconds.
    """
    draws = np.random.default_rng(seed)
    samples = [Sample(a, slo), Sample(b, slo)]
    of_a, of_b = (sample.statistics(np.ones(sample.size, dtype=np.int32)) for sample in samples)
    again = np.array([samples[1].resampled(draws) - samples[0].resampled(draws) for _ in range(RESAMPLES)])
    tail = (1 - CONFIDENCE) / 2
    differences = []
    for name, value_a, value_b, resampled in zip(NAMES, of_a, of_b, again.T, strict=True):
        known = resampled[~np.isnan(resampled)]
        if np.isnan(value_a) or np.isnan(value_b) or not len(known):
            continue
        low, high = np.quantile(known, [tail, 1 - tail])
        differences.append(Difference(name, float(value_a), float(value_b), float(low), float(high)))
    return differences


def as_table(differences: Sequence[Difference]) -> str:
    """Return the comparison as text, which marks differences that may be noise."""
    rows = [f"{'':<22}{'A':>12}{'B':>12}{'B - A':>12}   95 % interval"]
    for d in differences:
        said = "" if d.real else "   (may be noise)"
        rows.append(
            f"{d.name:<22}{d.a:>12.4f}{d.b:>12.4f}{d.b - d.a:>+12.4f}   [{d.low:+.4f}, {d.high:+.4f}]{said}"
        )
    return "\n".join(rows)
