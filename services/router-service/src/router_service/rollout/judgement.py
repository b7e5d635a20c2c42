"""Compares the requests of two pools with the objectives, by the bootstrap. Reads no clock and no random source."""

from collections.abc import Mapping, Sequence

from platform_contracts.bootstrap import Quantiles, Ratio, Sample, Statistic, differences
from router_service.rollout.plan import ERROR, NOT_COUNTED, TRUNCATED, Arm, Finding, Pair

TIMES: Mapping[str, tuple[int, float]] = {
    "ttft_p50": (0, 0.5),
    "ttft_p95": (0, 0.95),
    "gap_p50": (1, 0.5),
    "gap_p95": (1, 0.95),
}
"""Objectives of times: the column of a row, and the quantile. The limit is a factor of the old pool's time."""

SHARES: Mapping[str, int] = {"errors": ERROR, "truncations": TRUNCATED}
"""Objectives of shares: the end that counts. The limit is added to the old pool's share."""


def judge(
    pair: Pair, objectives: Mapping[str, float], confidence: float, seed: int, window: str
) -> list[Finding]:
    """Return a finding for each objective for which both pools have values, in the order of the objectives.

    ``verdict`` is `broken` if the whole interval is over the limit, `kept` if none of it is, else `open`.
    """
    before, after = _sample(pair.old, objectives, scale=True), _sample(pair.new, objectives, scale=False)
    found = []
    for one in differences(before, after, seed=seed, confidence=confidence):
        limit = objectives[one.name]
        most = limit if one.name in SHARES else 0.0
        verdict = "broken" if one.low > most else ("kept" if one.high <= most else "open")
        old = one.a if one.name in SHARES else one.a / limit
        old, new, low, high = (round(value, 6) for value in (old, one.b, one.low, one.high))
        found.append(Finding(one.name, window, old, new, low, high, limit, verdict))
    return found


def _sample(arm: Arm, objectives: Mapping[str, float], *, scale: bool) -> Sample:
    """Return the requests of one pool. ``scale`` multiplies times by their limit, so that a difference above zero breaks
    the limit.
    """
    statistics: list[Statistic] = []
    for name, limit in objectives.items():
        if name in SHARES:
            counted = [row[2] != NOT_COUNTED for row in arm.rows]
            statistics.append(Ratio(name, [row[2] == SHARES[name] for row in arm.rows], counted))
            continue
        column, quantile = TIMES[name]
        values: list[float] = []
        owners: list[int] = []
        for index, row in enumerate(arm.rows):
            value = row[column]
            if value is not None:
                values.append(value * (limit if scale else 1.0))
                owners.append(index)
        statistics.append(Quantiles({name: quantile}, values, owners))
    return Sample(len(arm.rows), statistics)


def named(findings: Sequence[Finding], verdict: str) -> list[Finding]:
    """Return the findings with ``verdict``."""
    return [one for one in findings if one.verdict == verdict]
