"""A raw engine and the router's connection pool, fresh for each test."""

from collections.abc import AsyncIterator

import pytest

from harness.servers.upstream_engine import Engine
from router_service.upstream.pool import UpstreamPool


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def pool() -> AsyncIterator[UpstreamPool]:
    pool = UpstreamPool()
    yield pool
    await pool.close()
