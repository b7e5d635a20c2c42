"""Stores of budgets: the protocol, Redis, and process memory. Must not know any client's limits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Protocol, cast

import redis.asyncio as redis
from redis.exceptions import RedisError

SWEEP_SECONDS = 60


class StoreUnavailable(Exception):
    """The store did not reply in time; it is unknown whether the call was charged."""


@dataclass(frozen=True)
class Limit:
    """Limits of one client per minute; ``None`` means unlimited."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class Standing:
    """The result of a reservation.

    ``requests`` and ``tokens`` are the remaining budgets (``None``: not limited; tokens may be negative after a
    settlement above the estimate). ``wait_seconds`` is the time until the same reservation can succeed.
    """

    admitted: bool
    requests: float | None
    tokens: float | None
    wait_seconds: float


class BudgetStore(Protocol):
    """Buckets that refill evenly over a minute, shared by all edges."""

    async def reserve(self, client: str, request: str, amount: int, limit: Limit) -> Standing:
        """Charge one request and ``amount`` tokens, both or neither, and store the reservation.

        Raises:
            StoreUnavailable: no reply in time.
        """

    async def settle(self, client: str, request: str, used: int, limit: Limit) -> int | None:
        """Replace a reservation by the used tokens; return the reserved tokens, None if unknown.

        A second settlement of the same request changes nothing.

        Raises:
            StoreUnavailable: no reply in time.
        """


class RedisBudgets:
    """Budgets in Redis. Each call is one script, so parallel calls cannot exceed a budget."""

    def __init__(
        self, url: str, timeout_seconds: float, reservation_seconds: int, password: str | None = None
    ) -> None:
        # A burst waits for a free connection, within the same timeout, instead of failing.
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
        self._script = self._redis.register_script(_script("budget.lua"))
        self._sweep_script = self._redis.register_script(_script("sweep.lua"))

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

    async def sweep(self) -> int:
        """Delete full buckets and unsettled reservations; return how many keys. One service a minute does it.

        Keys do not expire, because Redis evicts expiring keys when session pins fill its memory.

        Raises:
            StoreUnavailable: no reply in time.
        """
        deleted = 0
        try:
            if not await self._redis.set("edge:sweep", 1, nx=True, ex=SWEEP_SECONDS - 5):
                return 0
            async for key in self._redis.scan_iter("edge:{*", count=500):
                deleted += int(await self._sweep_script(keys=[key], args=[self._reservation_seconds]))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(type(error).__name__) from error
        return deleted

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose(close_connection_pool=True)

    async def _ask(self, what: str, client: str, request: str, amount: int, limit: Limit) -> list[bytes]:
        # One hash tag, so that all keys of a client are on one node of a Redis cluster.
        keys = [f"edge:{{{client}}}:{part}" for part in ("requests", "tokens", f"reserved:{request}")]
        arguments: list[str | int] = [
            what,
            amount,
            limit.requests_per_minute or 0,
            limit.tokens_per_minute or 0,
        ]
        try:
            return cast(list[bytes], await self._script(keys=keys, args=arguments))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(type(error).__name__) from error


def _script(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text()


class MemoryBudgets:
    """The same arithmetic in one process, for at most ``max_entries`` buckets and as many reservations.

    The oldest entry is dropped first.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, max_entries: int = 100_000) -> None:
        self._now = now
        self._max_entries = max_entries
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
            while len(self._levels) > self._max_entries:
                self._levels.pop(next(iter(self._levels)))
            while len(self._reserved) > self._max_entries:
                self._reserved.pop(next(iter(self._reserved)))
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


class LocalBudgets:
    """Buckets for use without a store: each rate limit service grants ``share`` of a client's limits."""

    def __init__(self, share: float, buckets: MemoryBudgets | None = None) -> None:
        self.buckets = buckets or MemoryBudgets()
        self._share = share

    def share_of(self, limit: Limit) -> Limit:
        """Return the part of ``limit`` that this process grants alone; at least 1."""
        return Limit(self._part(limit.requests_per_minute), self._part(limit.tokens_per_minute))

    def _part(self, per_minute: int | None) -> int | None:
        return None if per_minute is None else max(1, int(per_minute * self._share))
