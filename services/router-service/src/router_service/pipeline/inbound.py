"""One request as received, with the checks that the router needs. Must not know backends."""

import asyncio
from dataclasses import dataclass
from time import perf_counter, time
from typing import Any

import orjson

from router_service.openai_api.form import BadForm, read_form
from router_service.openai_api.large_body import LARGE_BYTES, MAX_COST, parse_cost
from router_service.openai_api.paths import InferencePath
from router_service.openai_api.response_ids import StoredRequest
from router_service.pipeline import headers
from router_service.pipeline.headers import RawHeaders


class BadBody(Exception):
    """The body cannot be routed; the message is for the client."""


@dataclass(slots=True)
class Inbound:
    """A request. ``target`` is path and query for the engine. ``stored``: the request is about a stored response."""

    path: InferencePath
    target: bytes
    headers: RawHeaders
    body: bytes
    received_epoch: float
    received: float
    stored: StoredRequest | None = None

    @classmethod
    def now(cls, path: InferencePath, target: bytes, headers: RawHeaders) -> "Inbound":
        """Return a request whose head has just been read; its body follows."""
        return cls(path, target, headers, b"", time(), perf_counter())

    @property
    def method(self) -> bytes:
        """Return the method for the engine."""
        return b"POST" if self.stored is None else self.stored.method.encode("ascii")

    async def admit_large(self) -> None:
        """Let other requests run before each step of a large body: its search, its parsing and its changes.

        Raises:
            BadBody: JSON with so many values that parsing would hold the loop too long.
        """
        if len(self.body) < LARGE_BYTES:
            return
        for cost in () if self.path.form else parse_cost(self.body):
            if cost > MAX_COST:
                raise BadBody(
                    "the request body takes too long to parse: send fewer values, or shorter texts with escapes or emoji"
                )
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    def fields(self) -> dict[str, Any]:
        """Return the fields of the body: a JSON object or, on the audio paths, a form.

        Raises:
            BadBody: not JSON, nested too deeply, or not an object; not a form.
        """
        if self.path.form:
            try:
                return read_form(self.body, headers.first(self.headers, b"content-type"))
            except BadForm as error:
                raise BadBody(str(error)) from error
        try:
            body = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise BadBody(f"the request body is not valid JSON: {error}") from error
        if not isinstance(body, dict):
            raise BadBody("the request body must be a JSON object")
        return body

    def edge_start(self) -> float | None:
        """Return the edge's timestamp in epoch seconds, or None if it is missing or invalid."""
        value = headers.first(self.headers, b"x-edge-start")
        if value is None:
            return None
        try:
            stamp = float(value)
        except ValueError:
            return None
        return stamp if stamp == stamp and abs(stamp) < 1e12 else None
