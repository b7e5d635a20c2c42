"""What can be made to go wrong, and for which requests. Set over ``/sim/faults``; knows no HTTP."""

import random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal[
    "refuse",  # nobody listens (for `seconds`)
    "http_error",  # answer `status` at once
    "die_mid_stream",  # cut the connection after `after_chunks` chunks, no terminating chunk
    "exit",  # the whole process ends after `after_chunks` chunks
    "clean_truncation",  # a proper end of the body without [DONE] after `after_chunks` chunks
    "error_event",  # announce the engine's death in band after `after_chunks` chunks, then [DONE]
    "stall_first_byte",  # headers, then silence for `seconds`
    "stall_mid_stream",  # silence for `seconds` after `after_chunks` chunks
    "comments_only",  # after `after_chunks` chunks only comments
    "slow",  # every engine step takes `factor` times as long
    "wedge",  # no engine step at all; the GPU shows 100 % at idle power
    "throttled",  # clocks down, steps `factor` times as long
    "long_prefill",  # every prefill takes `seconds` longer, with the device busy
    "kv_full",  # only `factor` (0-1) of the KV cache is left
    "xid_noise",  # an XID error on a device that works
    "telemetry_silent",  # the device says nothing
    "health_lies",  # /health answers 503
]

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


class Fault(BaseModel):
    """One fault. ``count`` bounds how many requests it hits (None: all while it is set)."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    after_chunks: int = Field(0, ge=0)
    seconds: float = Field(3600.0, ge=0)
    factor: float = Field(4.0, ge=0)
    status: int = Field(503, ge=400, le=599)
    count: int | None = Field(None, ge=1)
    ratio: float = Field(1.0, ge=0, le=1, description="share of the requests that are hit")


class Faults:
    """The faults that are set, at most one per kind, and how often each was really met."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.active: dict[str, Fault] = {}
        self.hits: dict[str, int] = {}

    def set(self, fault: Fault) -> None:
        """Set a fault; an earlier one of its kind is replaced."""
        self.active[fault.kind] = fault

    def clear(self, kind: str | None = None) -> None:
        """Take back one kind, or all."""
        if kind is None:
            self.active.clear()
        else:
            self.active.pop(kind, None)

    def on(self, kind: Kind) -> Fault | None:
        """A fault of the whole engine, if it is set; met once per look."""
        fault = self.active.get(kind)
        if fault is not None:
            self.hits[kind] = self.hits.get(kind, 0) + 1
        return fault

    def for_request(self) -> Fault | None:
        """The fault that hits the next request, if any; its count goes down."""
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
