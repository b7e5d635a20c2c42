"""A whole router in the test's own event loop: disconnected clients leave no task and no connection."""

import asyncio
import collections
import contextlib
import json
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
import uvicorn
import yaml

from router_service.api.uvicorn_relay import RelayProtocol
from router_service.app import Router
from router_service.config import load

HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
PIECE = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
BEGUN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
)
END = b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE)
PLACES = 4
QUEUE = 16
AT_ONCE = 20
"""The number of requests with a slot or in the queue: the router would refuse any more."""


class Engine:
    """Begins every stream, and ends it only while ``whole``. ``lost`` counts the closed connections."""

    def __init__(self) -> None:
        self.whole = False
        self.lost = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


class Connection(asyncio.Protocol):
    """One connection to the engine. It creates no task, so every counted task belongs to the router."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self._transport.write(HEALTHY)
        else:
            self._transport.write(BEGUN + END if self._engine.whole else BEGUN)

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine.lost += 1


def settings(folder: Path, engine_port: int) -> Path:
    path = folder / "router.yaml"
    backends = {"engine": {"url": f"http://127.0.0.1:{engine_port}"}}
    limits = {"max_in_flight_per_backend": PLACES, "queue_size": QUEUE, "queue_seconds": 60}
    pools = {"general": {"models": ["m"], "backends": backends}}
    path.write_text(
        yaml.safe_dump({"pools": pools, "routing": {"default_pool": "general"}, "limits": limits})
    )
    return path


@contextlib.asynccontextmanager
async def served(folder: Path, engine_port: int) -> AsyncIterator[tuple[Router, int]]:
    """A router that this loop runs, as its own process would, and its port."""
    path = settings(folder, engine_port)
    log = os.open(os.devnull, os.O_WRONLY)
    router = Router(path, load(path), log)
    config = uvicorn.Config(
        router.asgi,
        http=RelayProtocol,
        interface="asgi3",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server._serve([listening]))
        try:
            await until(lambda: router.readiness.usable.get("general") == 1, "the engine is usable")
            yield router, listening.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            await serving
            os.close(log)


async def until(check: Callable[[], bool], what: str | Callable[[], str]) -> None:
    for _ in range(1500):
        if check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within 30 s: {what if isinstance(what, str) else what()}")


def request() -> bytes:
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body)
    )


async def cancel_some(port: int, dice: random.Random) -> None:
    """More clients than slots, which disconnect at once, in the queue, or after the first bytes."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(AT_ONCE)]
    for _, writer in opened:
        writer.write(request())
    for reader, _ in opened[: dice.randrange(PLACES + 1)]:
        await asyncio.wait_for(reader.readuntil(b"\n\n"), 10)
    dice.shuffle(opened)
    for _, writer in opened:
        writer.transport.abort()


def tasks() -> "collections.Counter[str]":
    return collections.Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "count", [1000, pytest.param(20_000, marks=[pytest.mark.full, pytest.mark.timeout(900)])]
)
async def test_cancelled_requests_leave_neither_tasks_nor_connections(tmp_path: Path, count: int) -> None:
    dice = random.Random(count)
    engine = Engine()
    async with engine.listening() as engine_port, served(tmp_path, engine_port) as (router, port):
        await asyncio.sleep(0.1)
        before, most = tasks(), 0
        for _ in range(count // AT_ONCE):
            await cancel_some(port, dice)
            most = max(most, len(asyncio.all_tasks()))
        await until(lambda: not tasks() - before, lambda: f"only {before} are left: {tasks() - before}")
        await until(lambda: router.upstream.open_connections() == 0, "the connections to the engine are gone")
        (backend,) = router.fleet.pools["general"].backends
        line = router.fleet.lines["general"]
        print(f"{count} cancelled; tasks: {before.total()} before, {most} at most, {tasks().total()} after")
        assert most > before.total() + PLACES, "requests were under way at once"
        assert engine.lost > 0, "the engine saw clients leave"
        assert (backend.in_flight, len(line.queue), line.woken) == (0, 0, 0)
        assert (router.fleet.budget.active, router.fleet.budget.retrying) == (0, 0)
        engine.whole = True
        for _ in range(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request())
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            writer.close()
        await until(lambda: not tasks() - before, lambda: f"only {before} are left: {tasks() - before}")
