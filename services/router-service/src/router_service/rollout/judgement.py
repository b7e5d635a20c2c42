"""Compares the requests of two pools with the objectives, by the bootstrap. Reads no clock and no random source."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from platform_contracts.bootstrap import Quantiles, Ratio, Sample, Statistic, differences
from router_service.rollout.plan import ERROR, NOT_COUNTED, TRUNCATED, Finding, Pair, Row

LEAST_REQUESTS = 20
"""Minimum requests of each pool for a judgement."""

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

    ``verdict`` is `broken` if the whole interval is over the limit, `kept` if none of it is, else `open`. It is
    `one_client` if it would change without the requests of a single client: a client must not decide about a pool that
    all share. With fewer than :data:`LEAST_REQUESTS` requests of other clients, that client's requests decide.
    """
    found = []
    for one in _compared(pair.old.sampled(), pair.new.sampled(), objectives, confidence, seed, window):
        limit = {one.objective: objectives[one.objective]}
        for client in sorted(_suspects(one, pair)) if one.verdict != "open" else ():
            old, new = (arm.sampled(without=client) for arm in (pair.old, pair.new))
            if min(sum(row[2] != NOT_COUNTED for row in rows) for rows in (old, new)) < LEAST_REQUESTS:
                continue
            again = _compared(old, new, limit, confidence, seed, window)
            if not again or again[0].verdict != one.verdict:
                one = replace(one, verdict="one_client")
                break
        found.append(one)
    return found


def _suspects(finding: Finding, pair: Pair) -> set[int]:
    """Return the clients that contribute most to a verdict: those with most of the bad requests, and those that flood."""
    arm = pair.new if finding.verdict == "broken" else pair.old
    if finding.objective in SHARES:
        bad = [row[3] for row in arm.sampled() if row[2] == SHARES[finding.objective]]
    else:
        column, _ = TIMES[finding.objective]
        most = finding.old * finding.limit if finding.verdict == "broken" else finding.old
        bad = [row[3] for row in arm.sampled() if (row[column] or 0.0) > most]
    counts = Counter(bad)
    largest = max(counts.values(), default=0)
    found = {min(client for client, count in counts.items() if count == largest)} if counts else set()
    return found | {arm.flooding for arm in (pair.old, pair.new) if arm.flooding is not None}


def _compared(
    old: Sequence[Row],
    new: Sequence[Row],
    objectives: Mapping[str, float],
    confidence: float,
    seed: int,
    window: str,
) -> list[Finding]:
    """Return a finding for each objective for which both samples have values."""
    before, after = _sample(old, objectives, scale=True), _sample(new, objectives, scale=False)
    found = []
    for one in differences(before, after, seed=seed, confidence=confidence):
        limit = objectives[one.name]
        most = limit if one.name in SHARES else 0.0
        verdict = "broken" if one.low > most else ("kept" if one.high <= most else "open")
        was = one.a if one.name in SHARES else one.a / limit
        was, now, low, high = (round(value, 6) for value in (was, one.b, one.low, one.high))
        found.append(Finding(one.name, window, was, now, low, high, limit, verdict))
    return found


def _sample(rows: Sequence[Row], objectives: Mapping[str, float], *, scale: bool) -> Sample:
    """Return the requests of one pool. ``scale`` multiplies times by their limit, so that a difference above zero breaks
    the limit.
    """
    statistics: list[Statistic] = []
    for name, limit in objectives.items():
        if name in SHARES:
            counted = [row[2] != NOT_COUNTED for row in rows]
            statistics.append(Ratio(name, [row[2] == SHARES[name] for row in rows], counted))
            continue
        column, quantile = TIMES[name]
        values: list[float] = []
        owners: list[int] = []
        for index, row in enumerate(rows):
            value = row[column]
            if value is not None:
                values.append(value * (limit if scale else 1.0))
                owners.append(index)
        statistics.append(Quantiles({name: quantile}, values, owners))
    return Sample(len(rows), statistics)


def named(findings: Sequence[Finding], verdict: str) -> list[Finding]:
    """Return the findings with ``verdict``."""
    return [one for one in findings if one.verdict == verdict]
