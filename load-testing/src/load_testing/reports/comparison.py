"""Compares two runs with confidence intervals, to distinguish a change from noise."""

from collections.abc import Sequence

from load_testing.measure.outcome import Outcome, RequestRecord
from load_testing.reports.summary import keeps_slo
from load_testing.workloads import Slo
from platform_contracts.bootstrap import Difference, Quantiles, Ratio, Sample, differences

TTFT, GAP = "ttft {} (s)", "inter-token {} (s)"
QUANTILES = {"p50": 0.5, "p95": 0.95}
GOODPUT = "goodput ratio"


def sample(records: Sequence[RequestRecord], slo: Slo) -> Sample:
    """Return one run's requests, ready to be resampled."""
    firsts = [(r.ttft_seconds, i) for i, r in enumerate(records) if r.ttft_seconds is not None]
    left_out = (Outcome.ABORTED, Outcome.REFUSED)
    return Sample(
        len(records),
        [
            Quantiles(_named(TTFT), [value for value, _ in firsts], [i for _, i in firsts]),
            Quantiles(
                _named(GAP),
                [gap for r in records for gap in r.inter_token_seconds],
                [i for i, r in enumerate(records) for _ in r.inter_token_seconds],
            ),
            Ratio(
                GOODPUT,
                (keeps_slo(r, slo) for r in records),
                (r.outcome not in left_out for r in records),
            ),
        ],
    )


def _named(name: str) -> dict[str, float]:
    return {name.format(quantile): value for quantile, value in QUANTILES.items()}


def compare(
    a: Sequence[RequestRecord], b: Sequence[RequestRecord], slo: Slo, seed: int = 1
) -> list[Difference]:
    """Compare run ``b`` with run ``a`` by the percentile bootstrap over requests.

    A statistic that one of the runs lacks (for example without streamed requests) is omitted.
    Two runs of 120,000 requests with 16 tokens each take some tens of seconds.
    """
    return differences(sample(a, slo), sample(b, slo), seed)


def as_table(differences: Sequence[Difference]) -> str:
    """Return the comparison as text, which marks differences that may be noise."""
    rows = [f"{'':<22}{'A':>12}{'B':>12}{'B - A':>12}   95 % interval"]
    for d in differences:
        said = "" if d.real else "   (may be noise)"
        rows.append(
            f"{d.name:<22}{d.a:>12.4f}{d.b:>12.4f}{d.b - d.a:>+12.4f}   [{d.low:+.4f}, {d.high:+.4f}]{said}"
        )
    return "\n".join(rows)
