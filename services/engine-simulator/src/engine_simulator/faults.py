"""Faults that can be injected, and the requests that each one affects. Set over ``/sim/faults``; imports no
HTTP.
"""

import random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal[
    "refuse",
    "http_error",
    "die_mid_stream",
    "exit",
    "clean_truncation",
    "error_event",
    "stall_first_byte",
    "stall_mid_stream",
    "comments_only",
    "slow",
    "wedge",
    "throttled",
    "long_prefill",
    "kv_full",
    "xid_noise",
    "telemetry_silent",
    "health_lies",
]
"""Every kind of fault; the table in README.md describes each with the fields it reads."""

PER_REQUEST = frozenset(
    {
        "http_error",
        "die_mid_stream",
        "exit",
        "clean_truncation",
        "error_event",
        "stall_first_byte",
        "stall_mid_stream",
        "comments_only",
    }
)
DEFAULT_SECONDS = 10.0


class Fault(BaseModel):
    """One fault. ``count`` limits how many requests it affects (None: every request while it is set).

    ``seconds`` is the duration of ``refuse`` and the stalls, and the additional prefill time of
    ``long_prefill``.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    after_chunks: int = Field(0, ge=0)
    seconds: float = Field(DEFAULT_SECONDS, ge=0)
    factor: float = Field(4.0, ge=0)
    status: int = Field(503, ge=400, le=599)
    count: int | None = Field(None, ge=1)
    ratio: float = Field(1.0, ge=0, le=1, description="share of the requests that the fault affects")


class Faults:
    """The active faults, at most one per kind, and how often each took effect."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.active: dict[str, Fault] = {}
        self.hits: dict[str, int] = {}

    def set(self, fault: Fault) -> None:
        """Set a fault; it replaces an earlier fault of the same kind."""
        self.active[fault.kind] = fault

    def clear(self, kind: str | None = None) -> None:
        """Clear one kind, or every fault."""
        if kind is None:
            self.active.clear()
        else:
            self.active.pop(kind, None)

    def on(self, kind: Kind) -> Fault | None:
        """Return a fault of the whole engine if it is set, and count it."""
        fault = self.active.get(kind)
        if fault is not None:
            self.hits[kind] = self.hits.get(kind, 0) + 1
        return fault

    def for_request(self) -> Fault | None:
        """Return the fault of the next request, if any, and decrease its count."""
        for kind in PER_REQUEST:
            fault = self.active.get(kind)
            if fault is None or self._random.random() >= fault.ratio:
                continue
            self.hits[kind] = self.hits.get(kind, 0) + 1
            if fault.count is not None:
                fault.count -= 1
                if fault.count <= 0:
                    del self.active[kind]
                return fault.model_copy()
            return fault
        return None
