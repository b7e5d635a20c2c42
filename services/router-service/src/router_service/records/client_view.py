"""A decision record in the form for its own client: sentences and numbers, without internals of the platform.

It contains only words from closed lists, numbers, and names that the response's `x-route-*` headers already contain.
It omits the record's free texts (`detail`), addresses, candidates, other clients and the conditions of rules.
"""

import re
from collections.abc import Mapping
from typing import Any

_ADDRESS = re.compile(r"[:/]|\d+\.\d+\.\d+\.\d+")

_ENDS = {
    "complete": "answered",
    "rejected": "answered with an error",
    "connect_failed": "could not be reached",
    "stale": "had closed its connection",
    "broken": "lost its connection",
    "malformed": "sent an unreadable answer",
    "engine_error": "reported an error in its stream",
    "incomplete": "ended its stream too early",
    "connect_timeout": "did not accept a connection in time",
    "first_token_timeout": "sent no first token in time",
    "idle_timeout": "stopped sending tokens",
    "total_timeout": "was stopped by the time limit of the request",
    "client_gone": "was stopped because the client left",
    "backend_lost": "was found to be stuck or unreachable",
    "diverged": "could not continue the answer of another backend",
}
_OUTCOMES = {
    "ok": "The answer was complete.",
    "client_error": "The request was refused because of its content; the answer's message named the reason.",
    "cancelled": "The client closed the connection before the answer was complete.",
    "upstream_error": "No backend could make the answer.",
    "truncated": "The answer was cut off: its backend failed after the answer had begun.",
    "timeout": "The time limit of the request passed.",
    "refused": "The request was refused because no backend was free or ready; it can be sent again.",
}
_WAITS = {
    "backend": "a free backend",
    "start": "an engine to start",
    "connection": "a connection to its backend",
    "first_token": "the first token",
    "next_token": "the next token",
}
_PARTS = {
    "gateway": ("edge", "router", "relay", "connect", "network"),
    "start": ("waiting_for_start",),
    "queue": ("router_queue", "engine_queue"),
    "failed_attempts": ("earlier_attempts",),
    "prompt": ("prefill", "first_byte_wait"),
}
"""The ledger for a client: sums of its parts."""


def client_view(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON-ready response of `GET /v1/requests/{id}`; times are milliseconds, None if unknown."""
    attempts = record.get("attempts") or []
    running = record.get("running")
    ledger = record.get("ttft_ledger_ms") or {}
    waited = {
        name: _sum([ledger.get(part) for part in parts])
        for name, parts in _PARTS.items()
        if record.get("first_token_ms") is not None
    }
    return {
        "id": record["request_id"],
        "object": "request",
        "time": record["time"],
        "path": record["path"],
        "model": record.get("model") or None,
        "stream": bool(record.get("stream")),
        "running": running is not None,
        "outcome": record.get("outcome"),
        "status": record.get("status") or None,
        "summary": [*_where(record, attempts), *_waited(record, waited), *_ended(record, running)],
        "backend": _name(record.get("chosen")),
        "rule": record.get("rule"),
        "attempts": [_ENDS.get(a["outcome"], "is working on it") for a in attempts],
        "times_ms": {
            "first_token": record.get("first_token_ms"),
            "first_token_parts": waited,
            "first_answer": record.get("first_answer_ms"),
            "decode": record.get("decode_ms"),
            "total": record.get("total_ms"),
        },
        "tokens": dict(record.get("tokens") or {}),
    }


def _where(record: Mapping[str, Any], attempts: list[Mapping[str, Any]]) -> list[str]:
    if not attempts:
        return ["The request reached no backend."]
    told = [f"The request went to backend {_name(record.get('chosen')) or '(unnamed)'}."]
    failed = [a for a in attempts[:-1] if a["outcome"] != "complete"]
    for number, attempt in enumerate(failed, start=1):
        told.append(f"Attempt {number} was repeated: its backend {_ENDS.get(attempt['outcome'], 'failed')}.")
    return told


def _waited(record: Mapping[str, Any], waited: Mapping[str, float | None]) -> list[str]:
    told = []
    if record.get("held_ms"):
        told.append(f"No engine was ready: it waited {record['held_ms'] / 1e3:.1f} s for one to start.")
    if record.get("queue_position") is not None:
        told.append(f"It waited in a queue behind {record['queue_position']} other requests.")
    if record.get("first_token_ms") is not None:
        parts = [(ms, name) for name, ms in waited.items() if ms is not None and ms >= 1.0]
        names = {
            "gateway": "the gateway",
            "start": "the start of an engine",
            "queue": "queues",
            "failed_attempts": "failed attempts",
            "prompt": "the prompt",
        }
        split = ", ".join(f"{ms:.0f} ms for {names[name]}" for ms, name in sorted(parts, reverse=True))
        told.append(
            f"The first token came after {record['first_token_ms']:.0f} ms"
            + (f": {split}." if split else ".")
        )
    return told


def _ended(record: Mapping[str, Any], running: Mapping[str, Any] | None) -> list[str]:
    if running is not None:
        awaited = _WAITS.get(running["waits_for"], "an answer")
        return [f"It is running: it has waited {running['waited_ms'] / 1e3:.1f} s for {awaited}."]
    return [_OUTCOMES.get(str(record.get("outcome")), "Its outcome is not known.")]


def _name(backend: Any) -> str | None:
    """Return a backend's name, None for a name made of its address."""
    return None if not backend or _ADDRESS.search(str(backend)) else str(backend)


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 3) if known else None
