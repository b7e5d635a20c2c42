"""W3C trace context: parses the incoming header and creates the engine's header. Records and exports nothing."""

import re
from dataclasses import dataclass
from random import Random

_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE = b"0" * 32
_NO_SPAN = b"0" * 16


@dataclass(slots=True)
class TraceContext:
    """A request's position in its trace. ``parent_span_id`` is empty if the trace starts here."""

    trace_id: str
    parent_span_id: str
    span_id: str
    sampled: bool

    def traceparent(self) -> bytes:
        """Return the header for the engine, with the router's span as the parent."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}".encode("ascii")


def continued(header: bytes | None, ratio: float, random: Random) -> TraceContext:
    """Continue the trace of a ``traceparent`` header and keep the caller's sampling decision.

    Without a valid header a new trace begins, sampled with probability ``ratio``.
    """
    span_id = f"{random.getrandbits(64) or 1:016x}"
    if header is not None:
        match = _TRACEPARENT.fullmatch(header)
        if match is not None:
            trace, parent, flags = match.groups()
            if trace != _NO_TRACE and parent != _NO_SPAN:
                return TraceContext(trace.decode(), parent.decode(), span_id, bool(int(flags, 16) & 1))
    return TraceContext(f"{random.getrandbits(128) or 1:032x}", "", span_id, random.random() < ratio)
