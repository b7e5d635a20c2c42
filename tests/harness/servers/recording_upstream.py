"""An HTTP/1.1 server that replaces the router in tests: it records every received byte and answers as
configured.
"""

import asyncio
import contextlib
import ctypes
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.background import served
from harness.ports import free_port

CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Received:
    """One request as received over the wire."""

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
    """How the upstream answers."""

    status: int = 200
    delay_seconds: float = 0.0
    chunks: int = 5
    chunk_seconds: float = 0.02
    silent_seconds: float = 0.0
    body: bytes = b'{"object":"chat.completion","choices":[]}'
    headers: tuple[tuple[str, str], ...] = ()
    tokens: str | None = None
    hang_up: bool = False
    on_request: threading.Semaphore | None = None  # each chunk of a stream waits for one release


@dataclass
class RecordingUpstream:
    """The running server. ``manner`` may be replaced at any time; ``received`` only grows.

    It answers health checks (``GET /readyz``) according to ``ready`` and does not record them.
    """

    port: int
    host: str = "127.0.0.1"
    ready: bool = True
    health_checks: int = 0
    manner: Manner = field(default_factory=Manner)
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    manner_of: Callable[[Received], Manner] | None = None
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(100_000))

    @property
    def count(self) -> int:
        """Return how many requests it has received."""
        return len(self.received)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests until it closes."""
        known = False
        try:
            while True:
                request = await _read(reader)
                if request.line.startswith("GET /readyz "):
                    self.health_checks += 1
                    await _answer(writer, request, Manner(200 if self.ready else 503))
                    continue
                self.connections += not known
                known = True
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


def _enter(namespace: str) -> None:
    """Move the calling thread into a network namespace: its new sockets belong there."""
    with Path(f"/run/netns/{namespace}").open() as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


@contextlib.contextmanager
def recording_upstream(
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    namespace: str | None = None,
) -> Iterator[RecordingUpstream]:
    """Run the server in a new thread until the block ends.

    By default it listens on a free loopback port. ``namespace`` is a network namespace of ``ip netns``.
    """
    upstream = RecordingUpstream(port or free_port(), host)

    async def start() -> asyncio.Server:
        return await asyncio.start_server(
            upstream.serve, host, upstream.port, limit=64 << 20, ssl=tls, backlog=1024
        )

    with served(start, partial(_enter, namespace) if namespace else lambda: None):
        yield upstream
