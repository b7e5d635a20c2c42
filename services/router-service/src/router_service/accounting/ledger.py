"""Splits the time to first token into parts, from timestamps. No part is estimated or merged into another."""

from dataclasses import dataclass

from router_service.pipeline.job import Stamps

MAX_EDGE_SECONDS = 5.0
"""A larger value of the edge's part is clock skew: the part is then left out and flagged."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Parts in milliseconds; ``first_token_ms`` is their sum."""

    parts: dict[str, float | None]
    first_token_ms: float
    edge_skewed: bool


def ledger(stamps: Stamps, queue_ms: float | None, prefill_ms: float | None) -> Ledger:
    """Account for the time from ``x-edge-start`` (or, without an edge, from receipt) to the first body byte.

    ``router`` is the time from receipt to the first attempt, without the time in the queue. ``connect`` is the
    connect time of the answering attempt. ``network`` is one round trip to its backend: the request's way there and
    the first byte's way back. ``relay`` is the time from the engine's first byte to the router's. ``engine_queue``
    and ``prefill`` are the engine's own figures. Without them they are None, and ``first_byte_wait`` is the time from
    sending the request to its first byte, without ``network``. If attempts failed, ``earlier_attempts`` is the time
    from the start of the first one to the start of the answering one, without the time in the queue. If no engine was
    ready at first, ``waiting_for_start`` is the time until one was.
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
    held = stamps.held_seconds * 1e3
    router = (stamps.attempts_began - stamps.received) * 1e3 - (queue - between) - held
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
    if held:
        parts["waiting_for_start"] = held
        known += held
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
