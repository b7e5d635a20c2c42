"""An engine that sends exactly the bytes of a test's script and records its requests. It parses no HTTP
beyond framing.

A script is a list of steps: bytes to send, seconds to wait, "close" (in order) or "reset" (at once).
It answers GET requests (health checks) with 200.
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import BinaryIO

from harness.servers.accepting import Acceptor, reset_when_closed

Step = bytes | float | str

HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class ScriptedEngine:
    """``script`` is played for every request; ``requests`` holds head and body of each POST.

    ``healthy`` is the answer to every GET request. ``handed_over`` counts script bytes accepted by the kernel; it does not
    grow while a send blocks. ``cut`` counts the scripts that could not be sent to their end.
    """

    def __init__(self) -> None:
        self.script: list[Step] = []
        self.requests: list[tuple[bytes, bytes]] = []
        self.healthy = HEALTHY
        self.handed_over = 0
        self.cut = 0
        self._acceptor = Acceptor(self._serve)
        self.port = self._acceptor.port
        self.url = self._acceptor.url

    def close(self) -> None:
        """Stop listening and drop every connection."""
        self._acceptor.close(drop=True)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(ValueError), connection.makefile("rb") as read:
            while head := _head(read):
                length = next(
                    (
                        int(line[15:])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                body = read.read(length)
                if head.startswith(b"GET "):
                    connection.sendall(self.healthy)
                    continue
                self.requests.append((head, body))
                if not self._play(connection):
                    return

    def _play(self, connection: socket.socket) -> bool:
        """Play the script; return False once the connection is closed."""
        for step in self.script:
            if isinstance(step, bytes):
                try:
                    connection.sendall(step)
                except OSError:
                    self.cut += 1
                    raise
                self.handed_over += len(step)
            elif isinstance(step, float):
                time.sleep(step)
            else:
                if step == "reset":
                    reset_when_closed(connection)
                return False
        return True


def _head(read: BinaryIO) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = read.readline()
        if not line:
            return b""
        head += line
    return head


@contextlib.contextmanager
def scripted_engine() -> Iterator[ScriptedEngine]:
    """Yield an engine until the block ends."""
    engine = ScriptedEngine()
    try:
        yield engine
    finally:
        engine.close()
