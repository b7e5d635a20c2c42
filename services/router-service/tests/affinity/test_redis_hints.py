"""A replica's finding reaches the others through a real Redis; nothing is lost but hints when it is gone."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from harness.ports import free_port
from platform_contracts.redis_login import RedisLogin
from router_service.affinity.redis_hints import AGAIN_SECONDS, WAITING_MAX, RedisHints

pytestmark = pytest.mark.service

Heard = list[tuple[str, str]]


class Replica:
    def __init__(self, url: str) -> None:
        self.heard: Heard = []
        self.probed: Heard = []  # what only tried the line
        self.hints = RedisHints(RedisLogin(url), 1.0, time.monotonic)
        self._task = asyncio.create_task(self.hints.run(self._hear))

    def _hear(self, pool: str, backend: str) -> None:
        (self.probed if pool == "probe" else self.heard).append((pool, backend))

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.hints.close()


async def until(true: Callable[[], bool], again: Callable[[], Awaitable[None]] | None = None) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        if again is not None:
            await again()
        await asyncio.sleep(0.02)


async def listening(*replicas: Replica) -> None:
    """Wait until each hears the other."""
    for speaker, listener in (replicas, reversed(replicas)):

        async def probe(speaker: Replica = speaker) -> None:
            speaker.hints.tell("probe", str(time.monotonic_ns()))

        await until(lambda listener=listener: bool(listener.probed), probe)


async def test_the_others_hear_it_and_the_speaker_does_not(redis_url: str) -> None:
    one, two = Replica(redis_url), Replica(redis_url)
    await listening(one, two)
    assert one.hints.tell("general", "backend-a")
    assert not one.hints.tell("general", "backend-a"), f"at most one per {AGAIN_SECONDS} s"
    await until(lambda: two.heard == [("general", "backend-a")])
    assert one.heard == []
    await one.end()
    await two.end()


async def test_text_that_is_no_hint_is_ignored(redis_url: str) -> None:
    import redis

    one, two = Replica(redis_url), Replica(redis_url)
    await listening(one, two)
    with redis.Redis.from_url(redis_url) as client:
        for text in ("", "x", "a\nb\nc\nd", "\n\n\n\n"):
            client.publish("llm:probe-now", text)
    two.hints.tell("p", "b")
    await until(lambda: bool(one.heard))
    assert one.heard == [("p", "b")]
    await one.end()
    await two.end()


async def test_without_redis_hints_are_dropped_and_never_pile_up() -> None:
    hints = RedisHints(RedisLogin(f"redis://127.0.0.1:{free_port()}/0"), 0.05, time.monotonic)
    accepted = [hints.tell("p", f"b{number}") for number in range(WAITING_MAX * 2)]
    assert accepted == [True] * WAITING_MAX + [False] * WAITING_MAX
    task = asyncio.create_task(hints.run(lambda *_: None))
    await asyncio.sleep(0.3)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await hints.close()
