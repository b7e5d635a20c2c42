"""The inference endpoint as raw ASGI in front of FastAPI's routes, because a FastAPI route costs more than the rest
of the router. It reads a request, creates its relay, and passes both to the pipeline.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from router_service.api.asgi_relay import AsgiRelay, Receive, Send
from router_service.api.uvicorn_relay import EXTENSION
from router_service.openai_api.errors import error_body, id_headers
from router_service.openai_api.paths import INFERENCE_PATHS, InferencePath
from router_service.openai_api.response_ids import PREFIX as RESPONSES
from router_service.openai_api.response_ids import stored_request
from router_service.pipeline import ends
from router_service.pipeline.ends import Refusal
from router_service.pipeline.headers import request_id
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.pipeline import Pipeline
from router_service.pipeline.relay import Relay

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class InferenceEndpoint:
    """The ASGI application: answers the paths that reach an engine and passes all other requests to ``app``."""

    def __init__(self, app: App, pipeline: Pipeline) -> None:
        self._app = app
        self._pipeline = pipeline

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Return the coroutine that answers the request. Not a coroutine itself: each one is resumed with the request."""
        path = INFERENCE_PATHS.get(scope["path"]) if scope["type"] == "http" else None
        if path is None:
            return self._other(scope, receive, send)
        if scope["method"] != "POST":
            return _method_not_allowed(scope, path, send)
        return self._serve(Inbound.now(path, path.target, scope["headers"]), scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request about a stored response; pass all others on."""
        stored = None
        if scope["type"] == "http" and scope["path"].startswith(RESPONSES):
            stored = stored_request(scope["path"], scope["query_string"])
        if stored is None:
            await self._app(scope, receive, send)
        elif scope["method"] != stored.method:
            await _method_not_allowed(scope, stored.path, send, stored.method)
        else:
            inbound = Inbound.now(stored.path, stored.target, scope["headers"])
            inbound.stored = stored
            await self._serve(inbound, scope, receive, send)

    async def _serve(self, inbound: Inbound, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and let the pipeline answer."""
        pipeline = self._pipeline
        settings = pipeline.settings
        extensions = scope.get("extensions")
        turn = extensions.get(EXTENSION) if extensions is not None else None
        refusal: Refusal | None = None
        body: bytes | None = turn.body() if turn is not None else None
        whole = body is not None and len(body) <= settings.max_body_bytes
        if body is None:  # Rare path: a timeout costs more than everything else here.
            body = b""
            try:
                async with asyncio.timeout(settings.policy.timeouts.total_seconds):
                    body, whole = await _read(receive, settings.max_body_bytes)
            except TimeoutError:
                refusal = ends.BODY_LATE
            if body is None:
                pipeline.cancelled_early(inbound)
                return
        if not whole:
            refusal = refusal or ends.too_large(settings.max_body_bytes)
            if turn is not None:
                turn.last()
        relay: Relay = turn() if turn is not None else AsgiRelay(send, receive)
        try:
            if refusal is not None:
                pipeline.refuse_now(inbound, relay, refusal)
                return
            inbound.body = body if inbound.stored is None else b""
            await pipeline.handle(inbound, relay)
        finally:
            # The record of the request waits in a batch: it needs no body.
            inbound.body = b""
            await relay.settled()


async def _read(receive: Receive, limit: int) -> tuple[bytes | None, bool]:
    """Return (body, complete): (None, ...) if the client disconnected, (..., False) if it is over ``limit`` bytes."""
    message = await receive()
    if message["type"] == "http.disconnect":
        return None, False
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body, len(body) <= limit
    parts = [body]
    size = len(body)
    while size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None, False
        body = message.get("body", b"")
        size += len(body)
        parts.append(body)
        if not message.get("more_body", False):
            return b"".join(parts), size <= limit
    return b"", False


async def _method_not_allowed(scope: Scope, path: InferencePath, send: Send, allowed: str = "POST") -> None:
    message = f"{scope['method']} is not allowed here; use {allowed}"
    body = error_body(405, message, "method_not_allowed", form=path.error_form)
    found = request_id(dict(scope["headers"]).get(b"x-request-id")).encode("ascii")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"allow", allowed.encode("ascii")),
        *((name, found) for name in id_headers(path.error_form)),
    ]
    await send({"type": "http.response.start", "status": 405, "headers": headers})
    await send({"type": "http.response.body", "body": body})
