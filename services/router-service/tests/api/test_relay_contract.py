"""One suite for both relays under a real uvicorn: the same bytes, the same ends, the same back-pressure."""

import asyncio
import contextlib
import gc
import socket

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router_service.api.asgi_relay import AsgiRelay
from router_service.api.uvicorn_relay import EXTENSION, RelayProtocol


class Listener:
    def __init__(self) -> None:
        self.slow = asyncio.Event()
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()

    def client_slow(self) -> None:
        self.slow.set()

    def client_ready(self) -> None:
        self.ready.set()

    def client_gone(self) -> None:
        self.gone.set()


@contextlib.asynccontextmanager
async def served(kind: str, answer):
    """A server whose every request is answered by ``answer(relay)``; gives its port."""

    async def app(scope, receive, send) -> None:
        await receive()
        relay = scope["extensions"][EXTENSION]() if kind == "fast" else AsgiRelay(send, receive)
        await answer(relay)
        await relay.settled()

    config = uvicorn.Config(
        app, port=0, http=RelayProtocol if kind == "fast" else HttpToolsProtocol, lifespan="off",
        log_config=None, server_header=False, date_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    task = asyncio.create_task(server._serve([listening]))
    while not server.started:  # noqa: ASYNC110 (uvicorn sets a flag, no event)
        await asyncio.sleep(0.01)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        await task


async def ask(port: int, times: int = 1, more: bytes = b"") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(times):
        last = b"connection: close\r\n" if number == times - 1 else b""
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\n" + last + more + b"content-length: 2\r\n\r\n{}")
    data = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return data


both = pytest.mark.parametrize("kind", ["fast", "plain"])


@both
async def test_a_chunked_answer(kind: str) -> None:
    async def answer(relay) -> None:
        relay.start(200, [(b"content-type", b"text/event-stream"), (b"x-a", b"1")])
        relay.write(b"one")
        relay.write(b"two" * 100)
        relay.finish()

    async with served(kind, answer) as port:
        data = await ask(port)
    head, body = data.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-a: 1\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"3\r\none\r\n12c\r\n" + b"two" * 100 + b"\r\n0\r\n\r\n"


@both
async def test_an_empty_piece_ends_no_answer(kind: str) -> None:
    async def answer(relay) -> None:
        relay.start(200, [])
        relay.write(b"")
        relay.write(b"one")
        relay.write(b"")
        relay.write(b"two")
        relay.finish()

    async with served(kind, answer) as port:
        assert (await ask(port)).endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


@both
async def test_a_sized_answer_and_an_empty_one(kind: str) -> None:
    async def answer(relay) -> None:
        relay.start(200, [(b"content-length", b"3")])
        relay.write(b"abc")
        relay.finish()

    async with served(kind, answer) as port:
        assert (await ask(port)).endswith(b"\r\n\r\nabc")

    async def empty(relay) -> None:
        relay.start(503, [(b"content-length", b"0")])
        relay.finish()

    async with served(kind, empty) as port:
        assert (await ask(port)).startswith(b"HTTP/1.1 503 ")


@both
async def test_pipelined_requests_are_answered_in_order_on_one_connection(kind: str) -> None:
    count = 0

    async def answer(relay) -> None:
        nonlocal count
        count += 1
        number = count
        await asyncio.sleep(0.02 if number == 1 else 0)
        relay.start(200, [(b"content-length", b"1")])
        relay.write(b"%d" % number)
        relay.finish()

    async with served(kind, answer) as port:
        data = await ask(port, times=3)
    assert [part[:1] for part in data.split(b"\r\n\r\n")[1:]] == [b"1", b"2", b"3"]


@both
async def test_an_aborted_answer_is_flushed_and_has_no_end(kind: str) -> None:
    async def answer(relay) -> None:
        relay.start(200, [])
        relay.write(b"half")
        relay.abort()

    async with served(kind, answer) as port:
        data = await ask(port)
    assert data.endswith(b"4\r\nhalf\r\n")


@both
async def test_a_client_that_leaves_is_told_once_and_writes_are_ignored(kind: str) -> None:
    listener = Listener()
    seen = asyncio.Event()

    async def answer(relay) -> None:
        relay.listen(listener)
        relay.start(200, [])
        relay.write(b"first")
        await asyncio.wait_for(listener.gone.wait(), 5)
        assert relay.gone
        relay.write(b"second")
        relay.finish()
        relay.abort()
        seen.set()

    async with served(kind, answer) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        await reader.readuntil(b"first")
        writer.transport.abort()
        await asyncio.wait_for(seen.wait(), 5)


@both
async def test_a_client_that_does_not_read_is_slow_and_then_ready_and_gets_every_byte(kind: str) -> None:
    listener = Listener()
    written = 0

    async def answer(relay) -> None:
        nonlocal written
        relay.listen(listener)
        relay.start(200, [(b"connection", b"close")])
        while not listener.slow.is_set():
            relay.write(b"x" * 10_000)
            written += 10_000
            assert written < 100_000_000, "nobody said that the client is slow"
            await asyncio.sleep(0)
        await asyncio.wait_for(listener.ready.wait(), 20)
        relay.finish()

    async with served(kind, answer) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await asyncio.wait_for(listener.slow.wait(), 20)
        data = await asyncio.wait_for(reader.read(), 20)
        writer.close()
    assert data.count(b"x") == written
    assert data.endswith(b"0\r\n\r\n")


async def test_trailers_follow_the_last_chunk_on_the_fast_relay() -> None:
    async def answer(relay) -> None:
        relay.start(200, [])
        relay.write(b"a")
        relay.finish([(b"x-route-tokens", b"prompt=1,completion=2")])

    async with served("fast", answer) as port:
        assert (await ask(port)).endswith(b"0\r\nx-route-tokens: prompt=1,completion=2\r\n\r\n")


async def test_an_http_1_0_client_gets_no_chunks() -> None:
    async def answer(relay) -> None:
        relay.start(200, [])
        relay.write(b"plain")
        relay.finish()

    async with served("fast", answer) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}")
        data = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert data.endswith(b"\r\n\r\nplain")


async def test_an_aborted_answer_to_an_http_1_0_client_ends_with_a_reset() -> None:
    """The end of the connection is the end of the body: an orderly one would say that the answer is whole."""

    async def answer(relay) -> None:
        relay.start(200, [])
        relay.write(b"half")
        await asyncio.sleep(0.05)
        relay.abort()

    async with served("fast", answer) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}")
        assert (await asyncio.wait_for(reader.readuntil(b"half"), 5)).endswith(b"\r\n\r\nhalf")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_a_closed_connection_leaves_nothing_for_the_garbage_collector() -> None:
    async def answer(relay) -> None:
        relay.start(200, [(b"content-length", b"1")])
        relay.write(b"a")
        relay.finish()

    def left() -> int:
        return sum(isinstance(one, RelayProtocol) for one in gc.get_objects())

    gc.collect()
    before = left()
    gc.disable()
    try:
        async with served("fast", answer) as port:
            for number in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
                await reader.readexactly(1)
                if number % 2:
                    writer.transport.abort()
                else:
                    writer.close()
            async with asyncio.timeout(10):
                while left() > before:  # noqa: ASYNC110 (the loop runs what closes them)
                    await asyncio.sleep(0.01)
    finally:
        gc.enable()
