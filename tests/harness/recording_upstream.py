"""An HTTP/1.1 server for tests that keeps every byte it was sent and answers as it is told.

It stands where the router stands, so that a test can prove what reached it. It decides nothing by itself.
"""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from harness.ports import free_port


@dataclass(frozen=True)
class Received:
    """One request as it came over the wire."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    trailers: bytes = b""

    def values(self, name: str) -> list[str]:
        """Return every value of a header, in order."""
        return [value for key, value in self.headers if key == name.lower()]

    def value(self, name: str) -> str | None:
        """Return the header's only value, None if it is absent."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


@dataclass
class Manner:
    """How the upstream answers from now on."""

    status: int = 200
    delay_seconds: float = 0.0
    chunks: int = 5
    chunk_seconds: float = 0.02
    silent_seconds: float = 0.0
    body: bytes = b'{"object":"chat.completion","choices":[]}'
    headers: tuple[tuple[str, str], ...] = ()
    tokens: str | None = None
    hang_up: bool = False
    on_request: threading.Semaphore | None = None  # a stream's chunk waits until this is released once more


@dataclass
class RecordingUpstream:
    """The running server. ``manner`` may be replaced at any time; ``received`` only grows."""

    port: int
    manner: Manner = field(default_factory=Manner)
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    manner_of: Callable[[Received], Manner] | None = None
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(100_000))

    @property
    def count(self) -> int:
        """How many requests reached it."""
        return len(self.received)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests until it closes."""
        self.connections += 1
        try:
            while True:
                request = await _read(reader)
                self.received.append(request)
                manner = self.manner_of(request) if self.manner_of else self.manner
                if manner.hang_up:
                    return
                async with self.slots:
                    await asyncio.sleep(manner.delay_seconds)
                if b'"stream":true' in request.body.replace(b" ", b""):
                    await _stream(writer, manner)
                else:
                    await _answer(writer, request, manner)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rest = head.decode("latin-1")[:-4].split("\r\n")
    pairs = (text.partition(":") for text in rest)
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    values = dict(headers)
    body, trailers = b"", b""
    if "chunked" in values.get("transfer-encoding", ""):
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        while (trailer := await reader.readline()) != b"\r\n":
            trailers += trailer
    else:
        body = await reader.readexactly(int(values.get("content-length", 0)))
    return Received(line, headers, body, trailers)


async def _answer(writer: asyncio.StreamWriter, request: Received, manner: Manner) -> None:
    extra = "".join(f"{name}: {value}\r\n" for name, value in manner.headers)
    if manner.tokens:
        extra += f"x-route-tokens: {manner.tokens}\r\n"
    body = b"" if request.line.startswith("HEAD ") else manner.body
    head = f"HTTP/1.1 {manner.status} Told\r\ncontent-type: application/json\r\n{extra}"
    writer.write(f"{head}content-length: {len(manner.body)}\r\n\r\n".encode() + body)
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, manner: Manner) -> None:
    extra = "".join(f"{name}: {value}\r\n" for name, value in manner.headers)
    head = f"HTTP/1.1 {manner.status} Told\r\ncontent-type: text/event-stream\r\n{extra}"
    writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
    await asyncio.sleep(manner.silent_seconds)
    for number in range(manner.chunks):
        if manner.on_request is not None:
            await asyncio.to_thread(manner.on_request.acquire, timeout=60)
        _chunk(writer, f"data: {json.dumps({'number': number})}\n\n".encode())
        await writer.drain()
        await asyncio.sleep(manner.chunk_seconds)
    _chunk(writer, b"data: [DONE]\n\n")
    trailer = f"x-route-tokens: {manner.tokens}\r\n" if manner.tokens else ""
    writer.write(f"0\r\n{trailer}\r\n".encode())
    await writer.drain()


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


@contextlib.contextmanager
def recording_upstream(tls: ssl.SSLContext | None = None) -> Iterator[RecordingUpstream]:
    """Run the server in a thread of its own on a free loopback port until the block ends."""
    upstream = RecordingUpstream(free_port())
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(
            upstream.serve, "127.0.0.1", upstream.port, limit=64 << 20, ssl=tls, backlog=1024
        )

    async def stop(server: asyncio.Server) -> None:
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield upstream
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
