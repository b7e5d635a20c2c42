"""Turns decision records into evidence by window. Reads no clock and no network."""

from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from router_service.rollout.plan import ERROR, NOT_COUNTED, OK, TRUNCATED, Evidence, Measured, Pair, Plan
from router_service.rollout.sampling import Counted, arm_of, merged

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


def row_of(record: Mapping[str, Any]) -> Measured | None:
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


class Windows:
    """The requests of one rollout's step, by pool and window.

    ``began`` is when the step began (epoch seconds), ``percent`` its share. Clients choose request ids: with an unknown
    ``salt`` they cannot choose which requests are sampled.
    """

    def __init__(self, plan: Plan, began: float, percent: float, salt: str = "") -> None:
        self._salt = salt
        self.plan = plan
        self.began = began
        self.percent = percent
        self._closed: deque[tuple[Counted, Counted]] = deque(maxlen=MOST_WINDOWS)
        self._open = (Counted(salt), Counted(salt))

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
        client = str(record.get("client_id") or "")
        self._open[pool == self.plan.to].add(str(record.get("request_id")), client, row)

    def close(self) -> Evidence:
        """End the window, and return the evidence for a decision."""
        last, self._open = self._open, (Counted(self._salt), Counted(self._salt))
        self._closed.append(last)
        numbers: dict[str, int] = {}

        def pair(windows: list[tuple[Counted, Counted]]) -> Pair:
            old, new = (merged([one[side] for one in windows]) for side in (0, 1))
            return Pair(arm_of(old, numbers), arm_of(new, numbers))

        return Evidence(pair([last]), pair(list(self._closed)))
