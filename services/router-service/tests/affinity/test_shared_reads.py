"""Pins that are read at the same time share one command, and each reader gets its own pin."""

import asyncio

import pytest
import redis

from platform_contracts.redis_login import RedisLogin
from router_service.affinity.redis_store import RedisStore

pytestmark = pytest.mark.service

KEYS = [f"k{number}" for number in range(100)]


def commands(url: str) -> dict[str, int]:
    """Return how often each command was called since the last reset."""
    with redis.Redis.from_url(url) as client:
        found = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): values["calls"] for name, values in found.items()}


async def filled(url: str) -> RedisStore:
    """Return a store in which every second key is pinned, with the commands counted from now on."""
    store = RedisStore(RedisLogin(url), timeout_seconds=5.0)
    for key in KEYS[::2]:
        await store.replace(key, f"backend of {key}", 60)
    with redis.Redis.from_url(url) as client:
        client.config_resetstat()
    return store


async def test_reads_at_the_same_time_share_a_command(redis_url: str) -> None:
    store = await filled(redis_url)
    found = await asyncio.gather(*(store.pin(key) for key in [*KEYS, *KEYS]))
    pinned = [f"backend of {key}" if place % 2 == 0 else "" for place, key in enumerate(KEYS)]
    assert found == pinned * 2
    counted = commands(redis_url)
    assert counted["mget"] <= 2
    assert "get" not in counted
    await store.close()


async def test_reads_one_after_another_are_answered_too(redis_url: str) -> None:
    store = await filled(redis_url)
    assert [await store.pin(key) for key in KEYS[:3]] == ["backend of k0", "", "backend of k2"]
    assert commands(redis_url)["mget"] == 3
    await store.close()


async def test_a_reader_that_gives_up_does_not_take_the_others_with_it(redis_url: str) -> None:
    store = await filled(redis_url)
    readers = [asyncio.create_task(store.pin(key)) for key in ("k0", "k0", "k2")]
    await asyncio.sleep(0)
    readers[0].cancel()
    assert await asyncio.gather(*readers[1:]) == ["backend of k0", "backend of k2"]
    assert readers[0].cancelled()
    await store.close()
