"""Pins are shared, renewed and never waited for; without the store replicas agree all the same."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.clock import Clock
from harness.ports import free_port
from platform_contracts.redis_login import RedisLogin
from router_service.affinity.memory_store import MemoryStore
from router_service.affinity.redis_store import RedisStore
from router_service.affinity.sessions import CACHE_SECONDS, MAX_LATE, RETRY_SECONDS, WARN_SECONDS, Sessions
from router_service.ports import AffinityStore, AffinityUnavailable


class BrokenStore:
    """A store that fails, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def pin(self, key: str) -> str:
        self.asked += 1
        raise AffinityUnavailable("scripted")

    async def claim(self, key: str, backend: str, ttl_seconds: float) -> str:
        return await self.pin(key)

    async def replace(self, key: str, backend: str, ttl_seconds: float) -> None:
        await self.pin(key)

    async def close(self) -> None:
        pass


class FailingStore(MemoryStore):
    """A store that fails while ``broken`` is set."""

    broken = False

    async def replace(self, key: str, backend: str, ttl_seconds: float) -> None:
        if self.broken:
            raise AffinityUnavailable("scripted")
        await super().replace(key, backend, ttl_seconds)


MakeStore = Callable[[], AffinityStore]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.service)])
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    """The real store and its fake, held to the same promises."""
    if request.param == "memory":
        store = MemoryStore(Clock())
        return lambda: store
    url = request.getfixturevalue("redis_url")
    return lambda: RedisStore(RedisLogin(url), timeout_seconds=1.0)


async def test_the_first_claim_holds_and_replace_moves_it(make_store: MakeStore) -> None:
    store = make_store()
    key = f"k{free_port()}"
    assert await store.pin(key) == ""
    assert await store.claim(key, "a", 60) == "a"
    assert await store.claim(key, "b", 60) == "a"
    assert await store.pin(key) == "a"
    await store.replace(key, "b", 60)
    assert await store.pin(key) == "b"
    await store.close()


async def test_two_replicas_share_pins(make_store: MakeStore) -> None:
    clock = Clock()
    key = f"k{free_port()}"
    one, two = Sessions(make_store(), 60, clock), Sessions(make_store(), 60, clock)
    one.placed(key, "a")
    async with asyncio.timeout(10):
        while not await two.pin(key):  # noqa: ASYNC110 (no event tells: it is written off the request path)
            await asyncio.sleep(0.01)
    assert await two.pin(key) == "a"
    await one.close()
    await two.close()


async def test_a_warm_session_asks_nobody() -> None:
    clock, store = Clock(), BrokenStore()
    sessions = Sessions(store, 60, clock)
    sessions.placed("k", "a")
    assert sessions.cached("k") == "a"
    clock.now = CACHE_SECONDS + 1
    assert sessions.cached("k") is None


class Counting(MemoryStore):
    """A store by the test's clock that counts what it is asked."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.reads = self.writes = 0

    async def pin(self, key: str) -> str:
        self.reads += 1
        return await super().pin(key)

    async def claim(self, key: str, backend: str, ttl_seconds: float) -> str:
        self.writes += 1
        return await super().claim(key, backend, ttl_seconds)


@pytest.mark.parametrize("every_seconds", [1.0, 10.0])
async def test_a_session_in_use_never_expires_and_is_hardly_written(every_seconds: float) -> None:
    clock, ttl = Clock(), 600.0
    store = Counting(clock)
    sessions = Sessions(store, ttl, clock)
    asked = 0
    while clock.now < 10 * ttl:
        pin = sessions.cached("k")
        pin = await sessions.pin("k") if pin is None else pin
        assert pin == ("a" if asked else "")
        sessions.placed("k", "a")
        await asyncio.sleep(0)
        asked += 1
        clock.now += every_seconds
    await sessions.close()
    assert await store.pin("k") == "a"
    assert store.writes <= 10 * ttl / (0.1 * ttl) + 1
    assert store.reads - store.writes <= 10 * ttl / CACHE_SECONDS + 1, "a claim reads, too"


async def test_a_busy_session_follows_another_replica_within_the_caches_time() -> None:
    clock = Clock()
    store = Counting(clock)
    sessions = Sessions(store, 600, clock)
    sessions.placed("k", "a")
    await asyncio.sleep(0)
    await store.replace("k", "b", 600)
    moved_at = clock.now
    while await sessions.pin("k") == "a":
        sessions.placed("k", "a")
        clock.now += 0.5
    assert clock.now - moved_at <= CACHE_SECONDS
    await sessions.close()


async def test_a_failing_store_is_left_alone_between_attempts_and_warned_of_once() -> None:
    clock, store, warnings = Clock(), BrokenStore(), []
    sessions = Sessions(store, 60, clock, warnings.append)
    for number in range(100):
        assert await sessions.pin(f"k{number}") == ""
    assert (store.asked, sessions.up, len(warnings)) == (1, False, 1)
    clock.now += RETRY_SECONDS + 0.01
    await sessions.pin("again")
    assert store.asked == 1, "no request waits for a store that is down"
    for _ in range(3):
        sessions.try_again()
        await asyncio.sleep(0)
    assert store.asked == 2
    assert len(warnings) == 1
    clock.now += WARN_SECONDS
    sessions.try_again()
    await asyncio.sleep(0)
    assert len(warnings) == 2


async def test_a_known_pin_outlives_the_store() -> None:
    clock, memory = Clock(), MemoryStore(Clock())
    await memory.replace("k", "a", 600)
    sessions = Sessions(memory, 60, clock)
    assert await sessions.pin("k") == "a"
    sessions._store = BrokenStore()
    clock.now += CACHE_SECONDS + 1
    assert await sessions.pin("k") == "a"
    assert not sessions.up


async def test_pins_to_a_backend_that_is_gone_are_asked_for_again() -> None:
    memory = MemoryStore(Clock())
    sessions = Sessions(memory, 60, Clock())
    sessions.placed("moved", "a")
    sessions.placed("kept", "b")
    await asyncio.sleep(0)
    await memory.replace("moved", "c", 60)  # another replica was quicker
    sessions.forget("a")
    assert sessions.cached("moved") is None
    assert await sessions.pin("moved") == "c"
    assert sessions.cached("kept") == "b"
    await sessions.close()


async def test_a_store_that_works_again_is_used_again_and_gets_what_was_placed_meanwhile() -> None:
    clock, memory = Clock(), MemoryStore(Clock())
    sessions = Sessions(BrokenStore(), 60, clock)
    assert await sessions.pin("k") == ""
    sessions.placed("k", "b")
    assert sessions.cached("k") == "b"
    sessions._store = memory
    clock.now += RETRY_SECONDS
    sessions.try_again()
    await asyncio.sleep(0)
    assert sessions.up
    sessions.placed("k", "b")
    await sessions.close()
    assert await memory.pin("k") == "b"


@pytest.mark.service
async def test_a_redis_that_is_not_there_costs_at_most_its_time(tmp_path: Path) -> None:
    store = RedisStore(RedisLogin(f"redis://127.0.0.1:{free_port()}/0"), timeout_seconds=0.05)
    with pytest.raises(AffinityUnavailable, match="ConnectionError"):
        await store.pin("k")
    await store.close()


@pytest.mark.service
async def test_a_redis_that_accepts_and_says_nothing_costs_at_most_its_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = RedisStore(RedisLogin(f"redis://127.0.0.1:{port}/0"), timeout_seconds=0.05)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(AffinityUnavailable):
        await store.pin("k")
    assert loop.time() - began < 2.0  # generous: the machine may be busy; without a bound it would be 30 s
    await store.close()
    server.close()


async def test_moved_pins_reach_the_store_once_it_works_again() -> None:
    """Another router cannot derive them: it would answer that a stored response does not exist."""
    clock = Clock()
    store = FailingStore(clock)
    sessions = Sessions(store, 600, clock)
    store.broken = True
    for number in range(20):
        sessions.placed(f"k{number}", "old", moved=True)
        await asyncio.sleep(0)
    assert not sessions.up
    sessions.placed("k3", "newer", moved=True)
    store.broken = False
    clock.now += RETRY_SECONDS
    sessions.try_again()
    await sessions.close()
    await sessions.close()  # The writes start when the trial has ended.
    assert [await store.pin(f"k{number}") for number in range(20)] == [
        "newer" if number == 3 else "old" for number in range(20)
    ]


async def test_pins_that_wait_for_the_store_are_bounded() -> None:
    clock = Clock()
    sessions = Sessions(BrokenStore(), 600, clock)
    for number in range(MAX_LATE + 50):
        sessions.placed(f"k{number}", "a", moved=True)
        await asyncio.sleep(0)
    assert len(sessions._late) == MAX_LATE


async def test_a_later_request_of_a_waiting_pin_keeps_it_moved() -> None:
    clock = Clock()
    store = FailingStore(clock)
    await store.replace("k", "first", 600)
    sessions = Sessions(store, 600, clock)
    store.broken = True
    sessions.placed("k", "second", moved=True)
    await asyncio.sleep(0)
    store.broken = False
    sessions.up = True  # The trial has ended, and the waiting pins are not written yet.
    sessions.placed("k", "second")
    await sessions.close()
    assert await store.pin("k") == "second"
