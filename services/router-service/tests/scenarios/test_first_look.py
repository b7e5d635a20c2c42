"""A router accepts connections only after its backends were listed and probed, or after a fixed time."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import yaml

from router_service import app, backend_watch
from router_service.app import Router
from router_service.config import load
from router_service.config.model import PoolSection
from router_service.ports import Endpoint

HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class LateListing:
    """Lists one backend as soon as ``released``, as an API server that answers late does."""

    def __init__(self, report: Callable[[str | None], None], url: str, released: asyncio.Event) -> None:
        self._report = report
        self._url = url
        self._released = released

    async def watch(self) -> AsyncIterator[Sequence[Endpoint]]:
        await self._released.wait()
        self._report(None)
        yield [Endpoint(name="engine", url=self._url, health_url=f"{self._url}/health")]
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def starting(
    folder: Path, monkeypatch: pytest.MonkeyPatch, released: asyncio.Event
) -> AsyncIterator[Router]:
    """Yield a router with a dynamic pool; its only backend is healthy and listed once ``released`` is set."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEALTHY)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def discovery(_name: str, _pool: PoolSection, report: Callable[[str | None], None]) -> LateListing:
        return LateListing(report, url, released)

    monkeypatch.setattr(backend_watch, "discovery", discovery)
    path = folder / "router.yaml"
    pools = {"general": {"models": ["m"], "discover": {"dns": "engines.invalid", "port": 8000}}}
    path.write_text(yaml.safe_dump({"pools": pools, "routing": {"default_pool": "general"}}))
    log = os.open(os.devnull, os.O_WRONLY)
    try:
        yield Router(path, load(path), log)
    finally:
        server.close()
        os.close(log)


async def test_the_listener_opens_once_the_backends_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "FIRST_LOOK_SECONDS", 60.0)
    released = asyncio.Event()
    async with starting(tmp_path, monkeypatch, released) as router:
        life = router._lifespan(router.web)
        entering = asyncio.ensure_future(life.__aenter__())
        await asyncio.sleep(0.2)
        assert not entering.done()
        released.set()
        await asyncio.wait_for(entering, 30)
        assert router.fleet.usable("general") == 1
        await life.__aexit__(None, None, None)


async def test_the_listener_opens_without_a_list_after_a_fixed_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "FIRST_LOOK_SECONDS", 0.1)
    async with starting(tmp_path, monkeypatch, asyncio.Event()) as router:
        async with asyncio.timeout(30):
            async with router._lifespan(router.web):
                assert router.fleet.usable("general") == 0
