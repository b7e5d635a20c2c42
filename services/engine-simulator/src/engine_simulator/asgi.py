"""Reads requests and sends short responses over plain ASGI. Must not know paths."""

from collections.abc import MutableMapping
from typing import Any

import orjson

from engine_simulator.generating import Cut, Receive, Send
from engine_simulator.requests import Refused

Scope = MutableMapping[str, Any]


async def read_body(receive: Receive) -> bytes:
    """Return the body.

    Raises:
        Cut: the client disconnected before its body was complete.
    """
    data = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cut
        data += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return data


async def read_json(receive: Receive) -> dict[str, Any]:
    """Return the body, a JSON object.

    Raises:
        Refused: 400 for other bodies.
        Cut: the client disconnected before its body was complete.
    """
    data = await read_body(receive)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"JSON decode error: {error}", "body", "Bad Request") from error
    if not isinstance(body, dict):
        raise Refused(400, "the body is not a JSON object")
    return body


def header(scope: Scope, name: bytes) -> str:
    """Return a request header's value, or an empty string."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""


async def reply(send: Send, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    """Send a whole response; an empty ``kind`` omits the content type."""
    headers = [(b"content-length", b"%d" % len(body))]
    if kind:
        headers.append((b"content-type", kind))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
