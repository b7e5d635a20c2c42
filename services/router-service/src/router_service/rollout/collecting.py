"""Turns decision records into evidence: uniform samples of bounded size, by window. Reads no clock and no network."""

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from router_service.rollout.plan import ERROR, NOT_COUNTED, OK, TRUNCATED, Arm, Evidence, Pair, Plan, Row
from router_service.routing.hashing import digest

MOST_ROWS = 500
"""Maximum sample of one pool, so that the log line of a decision stays under 64 KiB."""

MOST_WINDOWS = 12
"""Number of latest windows of a step that count, so that earlier good windows do not hide a late fault."""

_FAILED = frozenset({"upstream_error", "timeout", "refused"})
_FAULTS = frozenset(
    {
        *(
            "rejected",
            "connect_failed",
            "connect_timeout",
            "broken",
            "malformed",
            "engine_error",
            "incomplete",
        ),
        *("first_token_timeout", "idle_timeout", "backend_lost", "diverged"),
    }
)
"""Ends of attempts that a client does not see if a retry, a fallback or a resumed stream repairs them."""


def row_of(record: Mapping[str, Any]) -> Row | None:
    """Return the measured values of a finished request; None for a client's mistake and for a copy.

    A repaired attempt counts like a failure: with the whole load at the new pool, no other pool could repair it. A
    client that left before its first token has waited at least that long, so its wait is a time to first token.
    """
    outcome = record.get("outcome")
    if outcome == "client_error" or outcome is None or record.get("shadow_of"):
        return None
    ttft, end = record.get("first_token_ms"), OK
    if outcome == "cancelled":
        end = NOT_COUNTED
        if ttft is None and record.get("stream"):
            ttft = record.get("total_ms")
    else:
        failed = [a for a in record.get("attempts") or () if a.get("outcome") in _FAULTS]
        if outcome == "truncated" or any(a.get("first_byte_ms") is not None for a in failed):
            end = TRUNCATED
        elif failed or outcome in _FAILED or record.get("pool") != record.get("first_pool"):
            end = ERROR
    tokens = (record.get("tokens") or {}).get("completion") or 0
    decode = record.get("decode_ms")
    gap = round(decode / (tokens - 1), 3) if decode is not None and tokens > 1 else None
    return (None if ttft is None else round(ttft, 1)), gap, end


def ended_at(record: Mapping[str, Any]) -> float:
    """Return when the request ended, in epoch seconds by the router's clock."""
    return datetime.fromisoformat(record["time"]).timestamp() + (record.get("total_ms") or 0.0) / 1e3


def _percent(record: Mapping[str, Any]) -> float | None:
    """Return the share that the request was decided with; None if its rule had no rollout then."""
    share = record.get("rollout")
    return None if share is None else share.get("percent")


class Counted:
    """The requests of one pool in one window: their number, and the rows with the smallest hashes of their ids.

    Samples of several windows merge to a uniform sample of all their requests.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.rows: list[tuple[int, Row]] = []
        """A heap of the negative hashes: the largest kept hash is the first to go."""

    def add(self, request_id: str, row: Row) -> None:
        """Count one request."""
        self.requests += row[2] != NOT_COUNTED
        item = (-int(digest(request_id), 16), row)
        if len(self.rows) < MOST_ROWS:
            heapq.heappush(self.rows, item)
        elif item[0] > self.rows[0][0]:
            heapq.heapreplace(self.rows, item)


def merged(counted: Iterable[Counted]) -> Arm:
    """Return the requests of several windows as one arm. Its rows have the order of their hashes."""
    every = list(counted)
    rows = heapq.nlargest(MOST_ROWS, (item for one in every for item in one.rows), key=lambda item: item[0])
    return Arm(sum(one.requests for one in every), tuple(row for _, row in rows))


class Windows:
    """The requests of one rollout's step, by pool and window.

    ``began`` is when the step began (epoch seconds), ``percent`` its share.
    """

    def __init__(self, plan: Plan, began: float, percent: float) -> None:
        self.plan = plan
        self.began = began
        self.percent = percent
        self._closed: deque[tuple[Counted, Counted]] = deque(maxlen=MOST_WINDOWS)
        self._open = (Counted(), Counted())

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record, if it is of this rule and share, of one of the two pools and ended after the warm-up.

        It belongs to the pool that the rule chose, even if a fallback served it. A router may receive a changed share
        a minute late: requests that it decided with another share say nothing about this step.
        """
        if record.get("rule") != self.plan.rule or _percent(record) != self.percent:
            return
        pool = record.get("first_pool")
        if pool not in (self.plan.old, self.plan.to):
            return
        row = row_of(record)
        if row is None or ended_at(record) < self.began + self.plan.warm_up_seconds:
            return
        self._open[pool == self.plan.to].add(str(record.get("request_id")), row)

    def close(self) -> Evidence:
        """End the window, and return the evidence for a decision."""
        last, self._open = self._open, (Counted(), Counted())
        self._closed.append(last)
        return Evidence(
            Pair(merged(last[:1]), merged(last[1:])),
            Pair(merged(pair[0] for pair in self._closed), merged(pair[1] for pair in self._closed)),
        )
