"""A TCP proxy in front of one engine that cuts a streamed answer after a chosen number of events.

What the engine sent up to there reaches the router byte for byte, then both connections are reset, as when
the engine's process dies. It parses nothing but the blank lines between events.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator


class StreamCutter:
    """``after`` events of the next streamed answer are let through, then it is cut; None lets everything pass."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        self.after: int | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            engine = socket.create_connection(("127.0.0.1", self._target))
            with engine:
                threading.Thread(target=_copy, args=(client, engine), daemon=True).start()
                self._answer(engine, client)
                for side in (client, engine):
                    with contextlib.suppress(OSError):
                        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        side.shutdown(socket.SHUT_RD)

    def _answer(self, engine: socket.socket, client: socket.socket) -> None:
        seen, last = 0, b""
        while data := engine.recv(65536):
            start = 0
            while self.after is not None and b"text/event-stream" not in last:
                # The head of a stream, or an answer that is none: neither is cut.
                if b"text/event-stream" not in data:
                    break
                last = b"text/event-stream"
                start = data.find(b"\r\n\r\n") + 4
            if self.after is not None and last:
                end = start
                while (at := data.find(b"\n\n", end)) >= 0:
                    end, seen = at + 2, seen + 1
                    if seen >= self.after:
                        client.sendall(data[:end])
                        self.after = None
                        self.cuts += 1
                        return
            client.sendall(data)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def stream_cutter(port: int) -> Iterator[StreamCutter]:
    """A cutter in front of the engine on ``port`` for one block."""
    cutter = StreamCutter(port)
    try:
        yield cutter
    finally:
        cutter.close()
