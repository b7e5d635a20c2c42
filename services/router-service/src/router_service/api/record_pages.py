"""Pages of decision records: recent records, and a single record by request id from any replica."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from router_service.openai_api.errors import error_body
from router_service.pipeline.headers import request_id, safe_name
from router_service.records.client_view import client_view
from router_service.records.ring import Ring
from router_service.routing.client_text import bounded
from router_service.routing.vocabulary import Outcome

MAX_LISTED = 1000
PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """Result of one lookup: the ``record`` if a replica has it, how many replicas ``answered``, and which did not.

    ``silent`` has the address and the reason of each replica without a response.
    """

    record: dict[str, Any] | None = None
    answered: int = 0
    silent: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lookup:
    """``here`` returns a record of this router, including running requests; ``elsewhere`` queries the other replicas,
    for a client or for an operator (None).
    """

    here: Callable[[str], dict[str, Any] | None]
    elsewhere: Callable[[str, str | None], Awaitable[PeerAnswer]]


def add_record_pages(pages: APIRouter, ring: Callable[[], Ring], lookup: Lookup) -> None:
    """Add `GET /debug/decisions` and `GET /debug/decisions/{id}`."""

    @pages.get("/debug/decisions")
    async def decisions(
        request: Request,
        outcome: str | None = None,
        backend: str | None = None,
        after: str = "",
        before: str = "",
        limit: int = 50,
    ) -> Response:
        if outcome is not None and outcome not in set(Outcome):
            message = f"outcome: {outcome[:128]!r} is not one of {', '.join(Outcome)}"
            return _error(400, message, "invalid_parameter", "outcome")
        asked = request.query_params
        wanted = {"outcome": outcome, "client_id": asked.get("client")}
        wanted |= {name: asked.get(name) for name in ("rule", "pool", "model")}
        most = max(0, min(limit, MAX_LISTED))
        found = ring().find(backend=backend, after=after, before=before, limit=most, **wanted)
        return StreamingResponse(_listed(found), media_type="application/json")

    @pages.get("/debug/decisions/{wanted}")
    async def decision(wanted: str, peers: bool = True) -> Response:
        record = lookup.here(wanted)
        asked = PeerAnswer()
        if record is None and peers:
            asked = await lookup.elsewhere(wanted, None)
            record = asked.record
        if record is None:
            return _error(404, not_found(wanted, asked), "decision_not_found")
        headers = {
            "x-route-replica": str(record.get("replica", "")).encode("latin-1", "replace").decode("latin-1")
        }
        return Response(orjson.dumps(record, default=str), 200, headers, "application/json")


def add_client_pages(pages: APIRouter, lookup: Lookup) -> None:
    """Add `GET /v1/requests/{id}`: a request's answer for its own client, as the edge authenticated it."""

    @pages.get("/v1/requests/{wanted}")
    async def own_request(wanted: str, request: Request) -> Response:
        client = safe_name(request.headers.get("x-client-id", "").encode("latin-1"))
        record = lookup.here(wanted)
        if record is None:
            record = (await lookup.elsewhere(wanted, client)).record
        if record is None or "shadow_of" in record or record.get("client_id", "") != client:
            message = f"no request {bounded(wanted, 128)} of this client is remembered"
            response = _error(404, message, "request_not_found")
        else:
            response = Response(orjson.dumps(client_view(record)), media_type="application/json")
        value = request.headers.get("x-request-id")
        response.headers["x-request-id"] = request_id(value.encode("latin-1") if value is not None else None)
        return response


def not_found(wanted: str, asked: PeerAnswer) -> str:
    """Return the error message for a record that no replica has, with the replicas that did not respond."""
    others = f" and the {asked.answered} other replicas that responded" if asked.answered else ""
    message = f"this router{others} have no record of {bounded(wanted, 128)}"
    if not asked.answered:
        message = f"this router has no record of {bounded(wanted, 128)}"
    if asked.silent:
        message += f"; no response from {', '.join(asked.silent)}"
    return message


async def _listed(texts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield one JSON object with all records in pieces, so that they are never in memory at once.

    A piece for each record would cost several times as much CPU as the records do.
    """
    piece = bytearray(b'{"decisions":[')
    comma = b""
    for text in texts:
        piece += comma
        piece += text
        comma = b","
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
            await asyncio.sleep(0)  # streams go on between two pieces
    yield bytes(piece + b"]}")


def _error(status: int, message: str, code: str, param: str | None = None) -> Response:
    return Response(error_body(status, message, code, param), status, media_type="application/json")
