"""HTTP over a plain socket, for requests that no client library sends."""

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RawAnswer:
    """The bytes received until the peer closed or the wait ended. ``status`` is 0 if nothing was received."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool
    seconds: float

    @property
    def error(self) -> dict[str, Any]:
        """The OpenAI error object of the body."""
        error = json.loads(self.body)["error"]
        assert isinstance(error, dict)
        return error


def exchange(port: int, request: bytes, wait_seconds: float = 5.0) -> RawAnswer:
    """Send ``request`` and return the first answer; a body without a length is read until the wait ends."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=wait_seconds) as connection:
        with contextlib.suppress(OSError):  # refused while sending: the response may already be readable
            connection.sendall(request)
        return read_answer(connection, wait_seconds, started)


def read_answer(connection: socket.socket, wait_seconds: float, started: float | None = None) -> RawAnswer:
    """Read one answer from an open connection."""
    started = time.monotonic() if started is None else started
    deadline = time.monotonic() + wait_seconds
    data, closed = b"", False
    while not _complete(data):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        connection.settimeout(left)
        try:
            piece = connection.recv(65536)
        except TimeoutError:
            break
        except OSError:
            closed = True
            break
        if not piece:
            closed = True
            break
        data += piece
    return _parsed(data, closed, time.monotonic() - started)


def _complete(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
        if name.lower() == b"transfer-encoding":
            return body.endswith(b"0\r\n\r\n")
    return False


def _parsed(data: bytes, closed: bool, seconds: float) -> RawAnswer:
    head, _, body = data.partition(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    headers = {}
    for text in rest:
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    parts = line.split(" ")
    status = int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
    return RawAnswer(status, headers, body, closed, seconds)
