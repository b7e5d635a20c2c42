"""A raw HTTP server in the test's event loop that plays a script of bytes, and a recorder of the exchange."""

import asyncio
import contextlib
from collections import deque
from typing import Any


class Sink:
    """Records the events of one exchange."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.ends = 0
        self.error: Exception | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        assert not self.status
        self.status, self.headers = status, headers

    def on_body(self, data: bytes) -> None:
        assert not self.done.done()
        self.body += data

    def on_end(self) -> None:
        self.ends += 1
        self.done.set_result(None)

    def on_failure(self, error: Exception) -> None:
        self.error = error
        self.done.set_result(None)


class Engine:
    """A raw server: one list of steps (bytes, a pause in seconds, "close", "close if used", "reset") per request."""

    def __init__(self) -> None:
        self.answers: deque[list[Any]] = deque()
        self.connections = 0
        self.lost = asyncio.Event()
        self.port = 0

    async def start(self, host: str = "127.0.0.1") -> None:
        self._server = await asyncio.start_server(self._serve, host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        used = False
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                for step in self.answers.popleft():
                    if step == "close" or (step == "close if used" and used):
                        writer.close()
                        return
                    if step == "reset":
                        writer.transport.abort()
                        return
                    if step == "wait":
                        await reader.read()
                        self.lost.set()
                        return
                    if isinstance(step, float):
                        await asyncio.sleep(step)
                    elif isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                used = True
        self.lost.set()
        writer.close()

    async def stop(self) -> None:
        self._server.close()


def sized(body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (more, len(body), body)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-a: 1\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nhost: e\r\n\r\n"


async def exchange(pool: Any, url: str) -> Sink:
    connection = pool.idle(url) or await pool.connect(url, 2.0)
    sink = Sink()
    connection.send(REQUEST, sink)
    async with asyncio.timeout(5):
        await sink.done
    return sink
