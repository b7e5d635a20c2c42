"""Where the time to first token went, from stamps; no part is made up, none is folded into another."""

from dataclasses import dataclass

MAX_EDGE_SECONDS = 5.0
"""A larger share of the edge is clock skew, not time: the part is then left out and flagged."""


@dataclass(slots=True)
class Stamps:
    """Clock readings of one streamed request. Epoch seconds for ``edge_start`` and ``received_epoch``,
    `time.perf_counter` seconds for the others; the last attempt's where there were several.

    ``queued_between_seconds`` is the share of ``queued_seconds`` spent after the first attempt had begun,
    ``round_trip_seconds`` how far away the answering backend is (None: not measured).
    """

    edge_start: float | None
    received_epoch: float
    received: float
    queued_seconds: float
    attempts_began: float
    attempt_began: float
    connected: float
    sent: float
    first_byte: float
    first_written: float
    queued_between_seconds: float = 0.0
    retried: bool = False
    round_trip_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Ledger:
    """Parts in milliseconds; ``first_token_ms`` is what they add up to."""

    parts: dict[str, float | None]
    first_token_ms: float
    edge_skewed: bool


def ledger(stamps: Stamps, queue_ms: float | None, prefill_ms: float | None) -> Ledger:
    """Account for the time from ``x-edge-start`` (or, without an edge, from receipt) to the first body byte.

    ``router`` is from receipt to the first attempt, less the time in the waiting line; ``connect`` is the
    answering attempt's; ``network`` one round trip to its backend, for the request's way there and the first byte's
    way back; ``relay`` from the engine's first byte to ours. ``engine_queue`` and ``prefill``
    are the engine's own figures: without them they are None and ``first_byte_wait`` is given, the time
    from sending the request to its first byte less ``network``. Where attempts failed before, ``earlier_attempts``
    is given: from the first one's beginning to the answering one's, less the time in the waiting line.
    """
    edge_ms: float | None = None
    skewed = False
    if stamps.edge_start is not None:
        edge = stamps.received_epoch - stamps.edge_start
        if 0.0 <= edge <= MAX_EDGE_SECONDS:
            edge_ms = edge * 1e3
        else:
            skewed = True
    queue = stamps.queued_seconds * 1e3
    between = stamps.queued_between_seconds * 1e3
    router = (stamps.attempts_began - stamps.received) * 1e3 - (queue - between)
    connect = (stamps.connected - stamps.attempt_began) * 1e3
    network = None if stamps.round_trip_seconds is None else stamps.round_trip_seconds * 1e3
    relay = (stamps.first_written - stamps.first_byte) * 1e3
    total = (edge_ms or 0.0) + (stamps.first_written - stamps.received) * 1e3
    parts: dict[str, float | None] = {
        "edge": edge_ms,
        "router_queue": queue,
        "router": router,
        "connect": connect,
        "network": network,
        "engine_queue": queue_ms,
        "prefill": prefill_ms,
    }
    known = (edge_ms or 0.0) + queue + router + connect + (network or 0.0) + relay
    if stamps.retried:
        earlier = (stamps.attempt_began - stamps.attempts_began) * 1e3 - between
        parts["earlier_attempts"] = earlier
        known += earlier
    if queue_ms is None or prefill_ms is None:
        parts["engine_queue"] = parts["prefill"] = None
        wait = (stamps.first_byte - stamps.sent) * 1e3 - (network or 0.0)
        parts["first_byte_wait"] = wait
        known += wait
    else:
        known += queue_ms + prefill_ms
    parts["relay"] = relay
    parts["unexplained"] = total - known
    return Ledger(parts, total, skewed)
