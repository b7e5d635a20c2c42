"""Stores of budgets: the protocol, Redis, and process memory. Must not know any client's limits."""

import calendar
import time
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import resources
from typing import Any, Protocol, cast

import redis.asyncio as redis
from redis.exceptions import RedisError

from platform_contracts.redis_login import RedisLogin
from rate_limit_service.budgets import Budget, Limit, Period, Standing, budgets_of, prefix_of

SWEEP_SECONDS = 60


class StoreUnavailable(Exception):
    """The store did not reply in time; it is unknown whether the call was charged."""


class BudgetStore(Protocol):
    """Budgets, shared by all edges: buckets that refill evenly over a minute, and counters of a day or month in UTC."""

    async def reserve(self, client: str, request: str, amount: int, limit: Limit) -> Standing:
        """Charge one request and ``amount`` tokens to all budgets or to none, and store the reservation.

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

    def __init__(self, login: RedisLogin, timeout_seconds: float, reservation_seconds: int) -> None:
        # A burst waits for a free connection, within the same timeout, instead of failing.
        pool = login.pool(
            redis.BlockingConnectionPool,
            max_connections=32,
            timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
        )
        self._login = login
        self._redis = redis.Redis(connection_pool=pool)
        self._reservation_seconds = reservation_seconds
        self._script = self._redis.register_script(_script("budget.lua"))
        self._sweep_script = self._redis.register_script(_script("sweep.lua"))

    async def reserve(self, client: str, request: str, amount: int, limit: Limit) -> Standing:
        """See :class:`BudgetStore`."""
        budgets = budgets_of(client, limit)
        refusing, wait, *left = await self._ask("reserve", client, request, amount, limit)
        return Standing(
            budgets[int(refusing) - 1] if int(refusing) else None,
            float(wait),
            {budget.name: float(one) for budget, one in zip(budgets, left, strict=True)},
        )

    async def settle(self, client: str, request: str, used: int, limit: Limit) -> int | None:
        """See :class:`BudgetStore`."""
        known, reserved = await self._ask("settle", client, request, used, limit)
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
            raise StoreUnavailable(self._login.explain(error)) from error
        return deleted

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose(close_connection_pool=True)

    async def _ask(self, what: str, client: str, request: str, amount: int, limit: Limit) -> list[bytes]:
        budgets = budgets_of(client, limit)
        keys = [f"{prefix_of(client, limit)}reserved:{request}", *(budget.key for budget in budgets)]
        arguments: list[str | int] = [what, amount]
        for budget in budgets:
            arguments += [budget.most, budget.period, "t" if budget.counts_tokens else "1"]
        try:
            return cast(list[bytes], await self._script(keys=keys, args=arguments))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(self._login.explain(error)) from error


def _script(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text()


class MemoryBudgets:
    """The same arithmetic in one process, for at most ``max_entries`` budgets and as many reservations.

    The oldest entry is dropped first. ``clock`` returns epoch seconds, for the windows of days and months.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        max_entries: int = 100_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self._clock = clock
        self._max_entries = max_entries
        self._levels: dict[str, tuple[float, float]] = {}
        self._used: dict[str, tuple[int, float]] = {}
        self._reserved: dict[tuple[str, str], tuple[int, dict[Period, int]]] = {}

    async def reserve(self, client: str, request: str, amount: int, limit: Limit) -> Standing:
        """See :class:`BudgetStore`."""
        budgets = budgets_of(client, limit)
        needs = {budget.name: amount if budget.counts_tokens else 1 for budget in budgets}
        left = {budget.name: self._left(budget) for budget in budgets}
        waits = {
            budget: self._wait(budget, needs[budget.name] - left[budget.name])
            for budget in budgets
            if needs[budget.name] > left[budget.name]
        }
        if waits:
            worst = max(waits, key=lambda budget: waits[budget])
            return Standing(worst, waits[worst], left)
        for budget in budgets:
            left[budget.name] -= needs[budget.name]
            self._keep(budget, left[budget.name])
        self._reserved[client, request] = (amount, self._windows())
        for kept in (self._levels, self._used, self._reserved):
            while len(kept) > self._max_entries:
                kept.pop(next(iter(kept)))  # type: ignore[call-overload]
        return Standing(None, 0.0, left)

    async def settle(self, client: str, request: str, used: int, limit: Limit) -> int | None:
        """See :class:`BudgetStore`."""
        known = self._reserved.pop((client, request), None)
        if known is None:
            return None
        reserved, began = known
        windows = self._windows()
        for budget in budgets_of(client, limit):
            # A window that has ended since the reservation is not corrected.
            if budget.counts_tokens and began[budget.period] == windows[budget.period]:
                self._keep(budget, self._left(budget) + reserved - used)
        return reserved

    def _windows(self) -> dict[Period, int]:
        seconds = self._clock()
        date = time.gmtime(seconds)
        return {"minute": 0, "day": int(seconds // 86400), "month": date.tm_year * 12 + date.tm_mon}

    def _left(self, budget: Budget) -> float:
        most = float(budget.most)
        if budget.period == "minute":
            level, at = self._levels.get(budget.key, (most, self._now()))
            return min(most, level + (self._now() - at) * most / 60)
        window, used = self._used.get(budget.key, (0, 0.0))
        return most - used if window == self._windows()[budget.period] else most

    def _keep(self, budget: Budget, left: float) -> None:
        left = min(float(budget.most), left)
        if budget.period == "minute":
            self._levels[budget.key] = (left, self._now())
        else:
            self._used[budget.key] = (self._windows()[budget.period], budget.most - left)

    def _wait(self, budget: Budget, missing: float) -> float:
        if budget.period == "minute":
            return missing * 60 / budget.most
        seconds = self._clock()
        date = time.gmtime(seconds)
        if budget.period == "day":
            return 86400 - seconds % 86400
        year, month = divmod(date.tm_year * 12 + date.tm_mon, 12)
        return calendar.timegm((year, month + 1, 1, 0, 0, 0)) - seconds


class LocalBudgets:
    """Buckets for use without a store: each rate limit service grants ``share`` of a client's limits."""

    def __init__(self, share: float, buckets: MemoryBudgets | None = None) -> None:
        self.buckets = buckets or MemoryBudgets()
        self._share = share

    def share_of(self, limit: Limit) -> Limit:
        """Return the part of ``limit`` that this process grants alone; at least 1."""
        parts: dict[str, Any] = {
            one.name: self._part(getattr(limit, one.name)) for one in fields(limit) if one.name != "team"
        }
        return replace(limit, **parts)

    def _part(self, most: int | None) -> int | None:
        return None if most is None else max(1, int(most * self._share))
