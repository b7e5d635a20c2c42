"""A recorded load: what each request asked of its engine, and when. Reads only decision records."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from router_service.records.replay import features_of
from router_service.routing.features import Features


@dataclass(slots=True, eq=False)
class Request:
    """One recorded request. Times in seconds; ``arrived`` counts from the first request of the load.

    ``fresh_tokens`` are the prompt tokens that the engine's cache did not have. ``overhead`` is the part of the time to
    the first token outside router queue and engine. The recorded times are None where the record has none: an unstreamed
    request has no first token, an engine without figures no ``prefill``.
    """

    features: Features
    arrived: float
    fresh_tokens: int
    tokens: int
    backend: str
    limit: int
    overhead: float = 0.0
    first_token: float | None = None
    prefill: float | None = None
    decode: float | None = None
    edge: float = 0.0

    @property
    def first_at(self) -> float | None:
        """When the first token was written, on the clock of ``arrived``."""
        return None if self.first_token is None else self.arrived + self.first_token - self.edge


@dataclass(frozen=True)
class Workload:
    """The requests of one pool in their order of arrival. ``left_out`` counts records that no engine answered, and
    ``other_pools`` those of other pools.
    """

    requests: list[Request]
    left_out: int
    other_pools: int

    @property
    def backends(self) -> int:
        return len({request.backend for request in self.requests})

    @property
    def seconds(self) -> float:
        return self.requests[-1].arrived if self.requests else 0.0


def workload_of(records: Iterable[Mapping[str, Any] | None], pool: str) -> Workload:
    """Return the load of ``pool``. Lines that are no records are None and ignored."""
    kept: list[tuple[float, Request]] = []
    left_out = other_pools = 0
    for record in records:
        if record is None:
            continue
        if record.get("pool") != pool:
            other_pools += 1
            continue
        request = _request(record)
        if request is None:
            left_out += 1
        else:
            kept.append((datetime.fromisoformat(record["time"]).timestamp(), request))
    kept.sort(key=lambda pair: pair[0])
    for at, request in kept:
        request.arrived = at - kept[0][0]
    return Workload([request for _, request in kept], left_out, other_pools)


def _request(record: Mapping[str, Any]) -> Request | None:
    """Return the request of a record, None if no engine answered it or reported its tokens."""
    counts = record["tokens"]
    chosen, prompt, tokens = record.get("chosen"), counts["prompt"], counts["completion"]
    if not chosen or prompt is None or not tokens:
        return None
    parts = record["ttft_ledger_ms"]
    first = _seconds(record.get("first_token_ms"))
    inside = sum(parts.get(part) or 0.0 for part in _SIMULATED) / 1e3
    return Request(
        features=features_of(record),
        arrived=0.0,
        fresh_tokens=max(prompt - (counts["cached"] or 0), 1),
        tokens=tokens,
        backend=chosen,
        limit=max((c["limit"] for c in record["candidates"] if c["backend"] == chosen), default=0),
        overhead=0.0 if first is None else max(first - inside, 0.0),
        first_token=first,
        prefill=_seconds(parts.get("prefill")),
        decode=_seconds(record.get("decode_ms")),
        edge=(parts.get("edge") or 0.0) / 1e3,
    )


_SIMULATED = ("router_queue", "engine_queue", "prefill", "first_byte_wait")
"""Parts of the time to the first token that depend on the number of engines."""


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3
