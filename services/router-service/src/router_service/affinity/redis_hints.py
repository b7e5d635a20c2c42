"""Sends hints about failing backends to the other replicas over Redis, and receives theirs.

A replica that receives a hint probes the backend at once and acts on the result of its own probe. A router with a bad
network therefore costs the others a few probes and never makes them eject a healthy backend. Hints are best effort:
without Redis every replica detects the failure itself, one probe interval later.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable

import redis.asyncio as redis
from redis.exceptions import RedisError

from platform_contracts.redis_login import RedisLogin

CHANNEL = "llm:probe-now"

AGAIN_SECONDS = 1.0
"""Minimum time between two hints about one backend, and between two attempts to connect."""

WAITING_MAX = 64


class RedisHints:
    """Publishes and receives hints. ``clock`` returns seconds."""

    def __init__(self, login: RedisLogin, timeout_seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._replica = uuid.uuid4().hex
        self._waiting: asyncio.Queue[str] = asyncio.Queue(WAITING_MAX)
        self._last: dict[str, float] = {}
        # No read timeout: a subscriber receives nothing for as long as nothing happens.
        pool = login.pool(
            redis.ConnectionPool,
            socket_connect_timeout=1.0,
            health_check_interval=10,
            decode_responses=True,
            retry=None,
        )
        self._redis = redis.Redis.from_pool(pool)

    def tell(self, pool: str, backend: str) -> bool:
        """Queue a hint about ``backend``. Return False if one was just sent or the queue is full."""
        about = f"{pool}\n{backend}"
        now = self._clock()
        if now - self._last.get(about, float("-inf")) < AGAIN_SECONDS:
            return False
        self._last[about] = now
        if len(self._last) > WAITING_MAX:
            self._last = {key: at for key, at in self._last.items() if now - at < AGAIN_SECONDS}
        try:
            self._waiting.put_nowait(about)
        except asyncio.QueueFull:
            return False
        return True

    async def run(self, heard: Callable[[str, str], None]) -> None:
        """Send and receive until cancelled; ``heard(pool, backend)`` is called for every hint of another replica."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send())
            group.create_task(self._listen(heard))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _send(self) -> None:
        while True:
            about = await self._waiting.get()
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(self._timeout_seconds):
                    await self._redis.publish(CHANNEL, f"{self._replica}\n{about}")

    async def _listen(self, heard: Callable[[str, str], None]) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CHANNEL)
                    while True:
                        message = await channel.get_message(timeout=AGAIN_SECONDS)
                        if message is not None:
                            self._pass_on(message["data"], heard)
            await asyncio.sleep(AGAIN_SECONDS)

    def _pass_on(self, text: str, heard: Callable[[str, str], None]) -> None:
        sender, *about = text.split("\n")
        if sender != self._replica and len(about) == 2:
            heard(*about)
