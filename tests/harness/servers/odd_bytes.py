"""A router in front of an engine that sends arbitrary bytes, and clients that send arbitrary bytes."""

import json
import socket
from typing import Any

from harness.servers.router_fleet import MODEL, Fleet, RouterPart
from harness.servers.scripted_engine import ScriptedEngine

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
DONE = b"data: [DONE]\n\n"
ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n{"a":1}'


def text(content: str) -> bytes:
    return (
        b"data: "
        + json.dumps({"id": "1", "choices": [{"index": 0, "delta": {"content": content}}]}).encode()
        + b"\n\n"
    )


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return SSE + b"transfer-encoding: chunked\r\n\r\n" + body + end


def in_front_of(fleet: Fleet, engine: ScriptedEngine, **sections: Any) -> RouterPart:
    pools = {"general": {"models": [MODEL], "backends": {"engine-a": {"url": engine.url}}}}
    return fleet.add_router(wait_usable=1, pools=pools, breaker={"failures": 10_000}, **sections)


def raw_request(body: bytes, headers: bytes = b"", path: bytes = b"/v1/chat/completions") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: r\r\n%bcontent-length: %d\r\n\r\n%b" % (path, headers, len(body), body)


def talk(router: RouterPart, sent: bytes, seconds: float = 15.0) -> bytes:
    """Send bytes and return everything received until the connection ends."""
    with socket.create_connection(("127.0.0.1", router.port), timeout=seconds) as connection:
        connection.sendall(sent)
        data = b""
        try:
            while piece := connection.recv(65536):
                data += piece
        except ConnectionResetError:
            pass
        return data


def ask(router: RouterPart, *, stream: bool = False, headers: bytes = b"connection: close\r\n") -> bytes:
    body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "x"}]}
    return talk(router, raw_request(json.dumps(body).encode(), headers))


def plain(answer: bytes) -> bytes:
    """Return the body of a chunked response, which may be incomplete."""
    body, rest = b"", answer.split(b"\r\n\r\n", 1)[1]
    while rest and (size := int(rest.split(b"\r\n", 1)[0], 16)) > 0:
        start = rest.index(b"\r\n") + 2
        body, rest = body + rest[start : start + size], rest[start + size + 2 :]
    return body


def error_of(answer: bytes) -> dict[str, Any]:
    error = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    found: dict[str, Any] = error
    return found
