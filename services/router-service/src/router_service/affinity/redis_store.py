"""Session pins in Redis, claimed with `SET NX EX` and shared by all replicas. A slow Redis counts as unavailable."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import redis.asyncio as redis
from redis.exceptions import RedisError

from router_service.ports import AffinityUnavailable

KEY_PREFIX = "llm:session:"

T = TypeVar("T")


class RedisStore:
    """One connection pool; every call ends within ``timeout_seconds``, however Redis fails."""

    def __init__(self, url: str, timeout_seconds: float, password: str | None = None) -> None:
        self._timeout_seconds = timeout_seconds
        # Blocking: a burst of new sessions waits for connections instead of failing.
        pool = redis.BlockingConnectionPool.from_url(
            url,
            password=password,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            decode_responses=True,
            max_connections=32,
            timeout=timeout_seconds,
            retry=None,
        )
        self._redis = redis.Redis.from_pool(pool)

    async def pin(self, key: str) -> str:
        return _text(await self._within(self._redis.get(KEY_PREFIX + key)))

    async def claim(self, key: str, backend: str, ttl_seconds: float) -> str:
        name = KEY_PREFIX + key
        # NX GET: one round trip returns the existing pin, or None if this call set the pin.
        held = await self._within(self._redis.set(name, backend, nx=True, get=True, ex=int(ttl_seconds) or 1))
        return _text(held) or backend

    async def replace(self, key: str, backend: str, ttl_seconds: float) -> None:
        await self._within(self._redis.set(KEY_PREFIX + key, backend, ex=int(ttl_seconds) or 1))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _within(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await call
        except TimeoutError as error:
            raise AffinityUnavailable(f"no reply within {self._timeout_seconds * 1000:.0f} ms") from error
        except (RedisError, OSError) as error:
            raise AffinityUnavailable(f"{type(error).__name__}: {error}") from error


def _text(value: object) -> str:
    """Return the reply as text. With ``decode_responses`` a reply is text or None."""
    return value if isinstance(value, str) else ""
