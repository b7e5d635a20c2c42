"""A TCP proxy in front of one engine that cuts a streamed answer after a chosen number of events.

The bytes up to the cut reach the router unchanged, then both connections are reset, as if the engine had
crashed. It parses nothing but the blank lines between events.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

from harness.servers.accepting import Acceptor, reset_when_closed


class StreamCutter:
    """The next stream is cut after ``after`` events; None forwards everything."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.after: int | None = None
        self.cuts = 0
        self._acceptor = Acceptor(self._carry)
        self.port = self._acceptor.port
        self.url = self._acceptor.url

    def close(self) -> None:
        """Stop listening."""
        self._acceptor.close(drop=False)

    def _carry(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._target)) as engine:
            threading.Thread(target=_copy, args=(client, engine), daemon=True).start()
            self._answer(engine, client)
            for side in (client, engine):
                with contextlib.suppress(OSError):
                    reset_when_closed(side)
                    side.shutdown(socket.SHUT_RD)

    def _answer(self, engine: socket.socket, client: socket.socket) -> None:
        seen, last = 0, b""
        while data := engine.recv(65536):
            start = 0
            while self.after is not None and b"text/event-stream" not in last:
                # Neither the head of a stream nor a response without a stream is cut.
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
    """Yield a cutter in front of the engine on ``port`` until the block ends."""
    cutter = StreamCutter(port)
    try:
        yield cutter
    finally:
        cutter.close()
