"""One run in numbers, and the verdict of its gate. Reads records only; asks no server."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure.outcome import Outcome, RequestRecord
from users.open_loop import LATE_SECONDS
from workloads import Slo

MAX_LATE_RATIO = 0.01


def read_records(path: Path) -> list[RequestRecord]:
    """Read a records file, in the order of sending."""
    with path.open() as lines:
        return sorted((RequestRecord.from_json(line) for line in lines), key=lambda r: r.sent_at)


def quantile(values: Sequence[float], q: float) -> float | None:
    """Return the ``q``-quantile by the nearest rank, or None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(math.ceil(q * len(ordered)) - 1, 0)]


def keeps_slo(record: RequestRecord, slo: Slo) -> bool:
    """Whether a request was good and kept the workload's latency limits."""
    if record.outcome is not Outcome.GOOD:
        return False
    if record.ttft_seconds is not None and record.ttft_seconds > slo.ttft_seconds:
        return False
    gap = quantile(record.inter_token_seconds, 0.95)
    return gap is None or gap <= slo.inter_token_p95_seconds


@dataclass
class Summary:
    """A run's numbers. Times in seconds; ratios from 0 to 1."""

    numbers: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems


def summarize(records: Sequence[RequestRecord], slo: Slo, **context: Any) -> Summary:
    """Judge a run.

    Goodput counts every request that was sent to be answered: a request that the workload abandons on
    purpose, or expects to be refused, is left out of the ratio and counted apart.
    """
    counted = [r for r in records if r.outcome not in (Outcome.ABORTED, Outcome.REFUSED)]
    good = [r for r in counted if keeps_slo(r, slo)]
    late = sum(r.late_seconds > LATE_SECONDS for r in records)
    outcomes = Counter(r.outcome for r in records)
    failed = [r for r in records if r.outcome.failed]
    goodput = len(good) / len(counted) if counted else 0.0
    late_ratio = late / len(records) if records else 0.0
    span = max((r.sent_at + r.total_seconds for r in records), default=0.0) - min(
        (r.sent_at for r in records), default=0.0
    )
    numbers: dict[str, Any] = {
        **context,
        "requests": len(records),
        "failed": len(failed),
        "truncated": outcomes[Outcome.TRUNCATED] + outcomes[Outcome.ERROR_EVENT],
        "aborted": outcomes[Outcome.ABORTED],
        "refused": outcomes[Outcome.REFUSED],
        "outcomes": {outcome.value: count for outcome, count in sorted(outcomes.items())},
        "goodput_ratio": goodput,
        "goodput_requests_per_second": len(good) / span if span else 0.0,
        "completion_tokens": sum(r.completion_tokens or 0 for r in records),
        "late_ratio": late_ratio,
        "ttft_seconds": _quantiles(r.ttft_seconds for r in records),
        "total_seconds": _quantiles(r.total_seconds for r in records if r.outcome is Outcome.GOOD),
        "inter_token_seconds": _quantiles(gap for r in records for gap in r.inter_token_seconds),
        "by_request": by(records, lambda r: r.workload_request, slo),
        "by_backend": by(records, lambda r: r.backend, slo),
        "by_rule": by(records, lambda r: r.rule, slo),
        "slo": slo.model_dump(),
        "failures": [
            {"request_id": r.request_id, "outcome": r.outcome.value, "detail": r.detail, "sent_at": r.sent_at}
            for r in failed[:50]
        ],
    }
    summary = Summary(numbers)
    if not records:
        summary.problems.append("no request was sent")
    if failed:
        summary.problems.append(f"{len(failed)} of {len(records)} requests failed")
    if late_ratio > MAX_LATE_RATIO:
        summary.problems.append(
            f"invalid: {late_ratio:.1%} of the sends were over {LATE_SECONDS * 1000:.0f} ms late, "
            f"at most {MAX_LATE_RATIO:.0%} may be; lower RATE or give the generator more CPU"
        )
    if records and goodput < slo.goodput_ratio:
        summary.problems.append(f"goodput {goodput:.2%} is below the SLO of {slo.goodput_ratio:.2%}")
    numbers["passed"] = summary.passed
    numbers["problems"] = summary.problems
    return summary


def _quantiles(values: Iterable[float | None]) -> dict[str, float | None]:
    present = [value for value in values if value is not None]
    mean = sum(present) / len(present) if present else None
    return {
        "mean": mean,
        "p50": quantile(present, 0.5),
        "p95": quantile(present, 0.95),
        "p99": quantile(present, 0.99),
    }


def by(records: Sequence[RequestRecord], key: Callable[[RequestRecord], str], slo: Slo) -> dict[str, Any]:
    """Return counts and the time to first token of each group of requests."""
    groups: dict[str, list[RequestRecord]] = {}
    for record in records:
        groups.setdefault(key(record) or "none", []).append(record)
    return {
        name: {
            "requests": len(group),
            "failed": sum(r.outcome.failed for r in group),
            "kept_slo": sum(keeps_slo(r, slo) for r in group),
            "ttft_seconds": _quantiles(r.ttft_seconds for r in group),
        }
        for name, group in sorted(groups.items())
    }
