"""Session pins in Redis, claimed with `SET NX EX` and shared by all replicas. A slow Redis counts as unavailable.

Pins that are read at the same time share one `MGET`: a command costs about as much CPU as a whole request without Redis.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TypeVar

import redis.asyncio as redis
from redis.exceptions import RedisError

from platform_contracts.redis_login import RedisLogin
from router_service.ports import AffinityUnavailable

KEY_PREFIX = "llm:session:"

T = TypeVar("T")

Waiter = asyncio.Future[str | AffinityUnavailable]
"""A request that waits for a pin. An error is a result, because a waiter that has given up would not retrieve it."""


class RedisStore:
    """One connection pool; every call ends within ``timeout_seconds``, however Redis fails."""

    def __init__(self, login: RedisLogin, timeout_seconds: float) -> None:
        self._login = login
        self._timeout_seconds = timeout_seconds
        # Blocking: a burst of new sessions waits for connections instead of failing.
        pool = login.pool(
            redis.BlockingConnectionPool,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            decode_responses=True,
            max_connections=32,
            timeout=timeout_seconds,
            retry=None,
        )
        self._redis = redis.Redis.from_pool(pool)
        self._asked: dict[str, list[Waiter]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def pin(self, key: str) -> str:
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        self._asked.setdefault(key, []).append(waiter)
        if self._reading is None:
            self._reading = loop.create_task(self._read())
        found = await self._within(waiter)
        if isinstance(found, AffinityUnavailable):
            raise AffinityUnavailable(str(found))
        return found

    async def _read(self) -> None:
        """Read the requested pins until there are none. Requests that arrive during one `MGET` share the next one."""
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                try:
                    held = await self._within(self._redis.mget([KEY_PREFIX + key for key in asked]))
                except AffinityUnavailable as error:
                    _answer(asked, dict.fromkeys(asked, error))
                else:
                    _answer(asked, dict(zip(asked, map(_text, held), strict=True)))
        finally:
            self._reading = None

    async def claim(self, key: str, backend: str, ttl_seconds: float) -> str:
        name = KEY_PREFIX + key
        # NX GET: one round trip returns the existing pin, or None if this call set the pin.
        held = await self._within(self._redis.set(name, backend, nx=True, get=True, ex=int(ttl_seconds) or 1))
        return _text(held) or backend

    async def replace(self, key: str, backend: str, ttl_seconds: float) -> None:
        await self._within(self._redis.set(KEY_PREFIX + key, backend, ex=int(ttl_seconds) or 1))

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        await self._redis.aclose()

    async def _within(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await call
        except TimeoutError as error:
            raise AffinityUnavailable(f"no reply within {self._timeout_seconds * 1000:.0f} ms") from error
        except (RedisError, OSError) as error:
            raise AffinityUnavailable(self._login.explain(error)) from error


def _answer(asked: Mapping[str, list[Waiter]], found: Mapping[str, str | AffinityUnavailable]) -> None:
    for key, waiters in asked.items():
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(found[key])


def _text(value: object) -> str:
    """Return the reply as text. With ``decode_responses`` a reply is text or None."""
    return value if isinstance(value, str) else ""
