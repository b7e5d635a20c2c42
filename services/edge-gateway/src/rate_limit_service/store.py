"""Where budgets are kept: the protocol, Redis, and a fake for tests. Knows no client's limits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Protocol, cast

import redis.asyncio as redis
from redis.exceptions import RedisError


class StoreUnavailable(Exception):
    """The store gave no answer in time; whether anything was charged is unknown."""


@dataclass(frozen=True)
class Limit:
    """What one client may use in a minute; ``None`` is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class Standing:
    """The answer to a reservation.

    ``requests`` and ``tokens`` are what remains now (``None``: not limited; tokens may be negative after a
    settlement above the estimate). ``wait_seconds`` is the time until the same question can be answered yes.
    """

    admitted: bool
    requests: float | None
    tokens: float | None
    wait_seconds: float


class BudgetStore(Protocol):
    """Buckets that refill evenly over a minute, shared by every edge."""

    async def reserve(self, client: str, request: str, amount: int, limit: Limit) -> Standing:
        """Charge one request and ``amount`` tokens, both or neither, and remember the reservation.

        Raises:
            StoreUnavailable: no answer in time.
        """

    async def settle(self, client: str, request: str, used: int, limit: Limit) -> int | None:
        """Replace a reservation by what was used; return what had been reserved, None if unknown.

        A second settlement of the same request changes nothing.

        Raises:
            StoreUnavailable: no answer in time.
        """


class RedisBudgets:
    """Budgets in Redis: each question is one script, so parallel questions cannot overshoot."""

    def __init__(
        self, url: str, timeout_seconds: float, reservation_seconds: int, password: str | None = None
    ) -> None:
        # A burst waits for a free connection, within the same patience, instead of failing.
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=32,
            timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            **({} if password is None else {"password": password}),
        )
        self._redis = redis.Redis(connection_pool=pool)
        self._reservation_seconds = reservation_seconds
        self._script = self._redis.register_script(
            resources.files(__package__).joinpath("budget.lua").read_text()
        )

    async def reserve(self, client: str, request: str, amount: int, limit: Limit) -> Standing:
        """See :class:`BudgetStore`."""
        admitted, requests, tokens, wait = await self._ask("reserve", client, request, amount, limit)
        return Standing(
            admitted=int(admitted) == 1,
            requests=float(requests) if limit.requests_per_minute else None,
            tokens=float(tokens) if limit.tokens_per_minute else None,
            wait_seconds=float(wait),
        )

    async def settle(self, client: str, request: str, used: int, limit: Limit) -> int | None:
        """See :class:`BudgetStore`."""
        known, reserved, _, _ = await self._ask("settle", client, request, used, limit)
        return int(float(reserved)) if int(known) == 1 else None

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose(close_connection_pool=True)

    async def _ask(self, what: str, client: str, request: str, amount: int, limit: Limit) -> list[bytes]:
        # One hash tag: all keys of a client live on one node of a Redis cluster.
        keys = [f"edge:{{{client}}}:{part}" for part in ("requests", "tokens", f"reserved:{request}")]
        arguments: list[str | int] = [
            what,
            amount,
            limit.requests_per_minute or 0,
            limit.tokens_per_minute or 0,
            self._reservation_seconds,
        ]
        try:
            return cast(list[bytes], await self._script(keys=keys, args=arguments))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(type(error).__name__) from error


class MemoryBudgets:
    """The fake: the same arithmetic in one process. Only for tests."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._levels: dict[tuple[str, str], tuple[float, float]] = {}
        self._reserved: dict[tuple[str, str], int] = {}

    async def reserve(self, client: str, request: str, amount: int, limit: Limit) -> Standing:
        """See :class:`BudgetStore`."""
        wanted = {
            "requests": (1.0, limit.requests_per_minute),
            "tokens": (float(amount), limit.tokens_per_minute),
        }
        levels = {part: self._level(client, part, cap) for part, (_, cap) in wanted.items()}
        wait = max(
            [(need - levels[part]) * 60 / cap for part, (need, cap) in wanted.items() if cap], default=0.0
        )
        admitted = wait <= 0
        if admitted:
            for part, (need, cap) in wanted.items():
                if cap:
                    levels[part] -= need
                    self._levels[client, part] = (levels[part], self._now())
            self._reserved[client, request] = amount
        return Standing(
            admitted,
            levels["requests"] if limit.requests_per_minute else None,
            levels["tokens"] if limit.tokens_per_minute else None,
            max(wait, 0.0),
        )

    async def settle(self, client: str, request: str, used: int, limit: Limit) -> int | None:
        """See :class:`BudgetStore`."""
        reserved = self._reserved.pop((client, request), None)
        if reserved is None:
            return None
        cap = limit.tokens_per_minute
        if cap:
            level = min(float(cap), self._level(client, "tokens", cap) + reserved - used)
            self._levels[client, "tokens"] = (level, self._now())
        return reserved

    def _level(self, client: str, part: str, cap: int | None) -> float:
        if not cap:
            return 0.0
        level, at = self._levels.get((client, part), (float(cap), self._now()))
        return min(float(cap), level + (self._now() - at) * cap / 60)
