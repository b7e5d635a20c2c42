"""An engine that sends exactly the bytes a test wrote, and keeps what it was sent. It knows no HTTP beyond framing.

A script is a list of steps: bytes to send, seconds to wait, "close" (in order) or "reset" (at once).
GET requests (health checks) are answered 200 unless the script is for them.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

Step = bytes | float | str

HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class ScriptedEngine:
    """``script`` is played for every request; ``requests`` holds head and body of each POST.

    ``handed_over`` counts the bytes of scripts that the kernel has taken: it stands still while a send blocks.
    ``cut`` counts the scripts that could not be sent to their end.
    """

    def __init__(self) -> None:
        self.script: list[Step] = []
        self.requests: list[tuple[bytes, bytes]] = []
        self.handed_over = 0
        self.cut = 0
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Listen no more and drop every connection."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._open.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as read:
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
                    connection.sendall(HEALTHY)
                    continue
                self.requests.append((head, body))
                if not self._play(connection):
                    return
        self._open.discard(connection)

    def _play(self, connection: socket.socket) -> bool:
        """Play the script; False when the connection is over."""
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
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
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
    """An engine for one block."""
    engine = ScriptedEngine()
    try:
        yield engine
    finally:
        engine.close()
