"""Two runs side by side, with confidence intervals, so that noise is not taken for a change."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from measure.outcome import Outcome, RequestRecord
from reports.summary import keeps_slo, quantile
from workloads import Slo

RESAMPLES = 1000
CONFIDENCE = 0.95

Statistic = Callable[[Sequence[RequestRecord]], float | None]


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
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def statistics(slo: Slo) -> dict[str, Statistic]:
    """The statistics that are compared, by name."""

    def ttft(q: float) -> Statistic:
        return lambda rs: quantile([r.ttft_seconds for r in rs if r.ttft_seconds is not None], q)

    def gaps(q: float) -> Statistic:
        return lambda rs: quantile([gap for r in rs for gap in r.inter_token_seconds], q)

    def goodput(records: Sequence[RequestRecord]) -> float | None:
        counted = [r for r in records if r.outcome not in (Outcome.ABORTED, Outcome.REFUSED)]
        return sum(keeps_slo(r, slo) for r in counted) / len(counted) if counted else None

    return {
        "ttft p50 (s)": ttft(0.5),
        "ttft p95 (s)": ttft(0.95),
        "inter-token p50 (s)": gaps(0.5),
        "inter-token p95 (s)": gaps(0.95),
        "goodput ratio": goodput,
    }


def compare(
    a: Sequence[RequestRecord], b: Sequence[RequestRecord], slo: Slo, seed: int = 1
) -> list[Difference]:
    """Compare run ``b`` with run ``a`` by the percentile bootstrap over requests.

    Requests, not single gaps, are resampled: the gaps inside one answer depend on each other.
    A statistic that one of the runs does not have (no streamed request, say) is left out.
    """
    draws = random.Random(seed)
    differences = []
    for name, statistic in statistics(slo).items():
        value_a, value_b = statistic(a), statistic(b)
        if value_a is None or value_b is None:
            continue
        resampled = []
        for _ in range(RESAMPLES):
            again_a = statistic(draws.choices(a, k=len(a)))
            again_b = statistic(draws.choices(b, k=len(b)))
            if again_a is not None and again_b is not None:
                resampled.append(again_b - again_a)
        tail = (1 - CONFIDENCE) / 2
        low, high = quantile(resampled, tail), quantile(resampled, 1 - tail)
        differences.append(Difference(name, value_a, value_b, low or 0.0, high or 0.0))
    return differences


def as_table(differences: Sequence[Difference]) -> str:
    """Return the comparison as text; a difference that may be noise is called so."""
    rows = [f"{'':<22}{'A':>12}{'B':>12}{'B - A':>12}   95 % interval"]
    for d in differences:
        said = "" if d.real else "   (may be noise)"
        rows.append(
            f"{d.name:<22}{d.a:>12.4f}{d.b:>12.4f}{d.b - d.a:>+12.4f}   [{d.low:+.4f}, {d.high:+.4f}]{said}"
        )
    return "\n".join(rows)
