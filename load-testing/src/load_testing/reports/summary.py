"""Summary of one run, and the result of its gate. Reads only records."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_testing.measure.generators import Account
from load_testing.measure.outcome import Outcome, RequestRecord
from load_testing.users.open_loop import LATE_SECONDS
from load_testing.workloads import Slo

MAX_LATE_RATIO = 0.01
LISTED = 50
"""Number of failed requests, and of slow requests, that a summary names."""


class BadRecords(Exception):
    """The file does not contain valid records; the message names the file and the line."""


def read_records(path: Path) -> list[RequestRecord]:
    """Read a records file, in the order of sending.

    Raises:
        BadRecords: the file cannot be read, or a line is not a record.
    """
    records = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise BadRecords(
            f"{path} cannot be read ({error.strerror}); give the records of a finished run"
        ) from None
    for number, line in enumerate(lines, start=1):
        try:
            records.append(RequestRecord.from_json(line))
        except (ValueError, KeyError, TypeError) as error:
            raise BadRecords(
                f"{path}, line {number}, is not a record of a request ({type(error).__name__}); was it cut off?"
            ) from None
    return sorted(records, key=lambda r: r.sent_at)


def quantile(values: Sequence[float], q: float) -> float | None:
    """Return the ``q``-quantile by the nearest rank, None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(math.ceil(q * len(ordered)) - 1, 0)]


def keeps_slo(record: RequestRecord, slo: Slo) -> bool:
    """Return whether a request was good and kept the workload's latency limits."""
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
    invalid: list[str]
    """Why the run is invalid: faults of the generators themselves."""
    problems: list[str]
    """Everything that fails the gate, ``invalid`` included."""

    @property
    def passed(self) -> bool:
        return not self.problems


def summarize(records: Sequence[RequestRecord], slo: Slo, account: Account, **context: Any) -> Summary:
    """Evaluate a run from its records and the account of the scheduled requests.

    Goodput counts every request that should succeed. Requests that the workload abandons on purpose, or
    expects to be refused, are counted separately.
    """
    counted = [r for r in records if r.outcome not in (Outcome.ABORTED, Outcome.REFUSED)]
    good = [r for r in counted if keeps_slo(r, slo)]
    late = sum(r.late_seconds > LATE_SECONDS for r in records)
    outcomes = Counter(r.outcome for r in records)
    failed = [r for r in records if r.outcome.failed]
    goodput = len(good) / len(counted) if counted else 0.0
    late_ratio = late / len(records) if records else 0.0
    slow = sorted((r for r in counted if r.outcome is Outcome.GOOD and not keeps_slo(r, slo)), key=_slowness)
    span = max((r.ended_at for r in records), default=0.0) - min((r.sent_at for r in records), default=0.0)
    numbers: dict[str, Any] = {
        "workload": account.workload,
        "target": account.target,
        "rate_per_second": account.rate_per_second,
        "duration_seconds": account.duration_seconds,
        "seed": account.seed,
        **context,
        "planned": account.planned,
        "generators": [share.model_dump() for share in account.shares],
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
        "first_answer_seconds": _quantiles(r.first_answer_seconds for r in records),
        "total_seconds": _quantiles(r.total_seconds for r in records if r.outcome is Outcome.GOOD),
        "inter_token_seconds": _quantiles(gap for r in records for gap in r.inter_token_seconds),
        "by_request": by(records, lambda r: r.workload_request, slo),
        "by_backend": by(records, lambda r: r.backend, slo),
        "by_rule": by(records, lambda r: r.rule, slo),
        "slo": slo.model_dump(),
        "failures": [_failure(r) for r in failed[:LISTED]],
        "slow": [_slow(r) for r in slow[:LISTED]],
        "slow_requests": len(slow),
    }
    invalid = _invalid(len(records), late_ratio, account)
    problems = list(invalid)
    if not records:
        problems.append("no request was sent")
    if failed:
        problems.append(f"{len(failed)} of {len(records)} requests failed")
    if records and goodput < slo.goodput_ratio:
        problems.append(f"goodput {goodput:.2%} is below the SLO of {slo.goodput_ratio:.2%}")
    numbers["passed"] = not problems
    numbers["problems"] = problems
    return Summary(numbers, invalid, problems)


def _failure(record: RequestRecord) -> dict[str, Any]:
    """Return the report's entry of a failed request."""
    return {
        "request_id": record.request_id,
        "outcome": record.outcome.value,
        "detail": record.detail,
        "sent_at": record.sent_at,
    }


def _slow(record: RequestRecord) -> dict[str, Any]:
    """Return the report's entry of a slow request."""
    return {
        "request_id": record.request_id,
        "ttft_seconds": record.ttft_seconds,
        "inter_token_p95_seconds": quantile(record.inter_token_seconds, 0.95),
        "sent_at": record.sent_at,
    }


def _invalid(records: int, late_ratio: float, account: Account) -> list[str]:
    """Return the faults of the generators, each as a sentence."""
    found = []
    if len(account.shares) < account.generators:
        ended = f"{len(account.shares)} of {account.generators}"
        found.append(f"invalid: only {ended} generators came to their end; see their messages")
    if records < account.planned:
        found.append(
            f"invalid: {account.planned - records} of {account.planned} requests left no record; "
            "see the generator's messages"
        )
    if records > account.planned:
        found.append(f"invalid: {records} records of {account.planned} requests; is another run among them?")
    if late_ratio > MAX_LATE_RATIO:
        found.append(
            f"invalid: {late_ratio:.1%} of the sends were over {LATE_SECONDS * 1000:.0f} ms late, "
            f"at most {MAX_LATE_RATIO:.0%} may be; lower RATE or give the generator more CPU"
        )
    return found


def _slowness(record: RequestRecord) -> float:
    """Sort key: the latest first token first."""
    return -(record.ttft_seconds or 0.0)


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
