"""Probes every backend at its interval, all at once, and tells the fleet what was found."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from router_service.ports import Health, HealthProbe
from router_service.routing.vocabulary import State


class Fleet(Protocol):
    """Who has the backends and is told how they are."""

    def endpoints(self) -> Iterable[tuple[str, str, str, str]]:
        """Return (pool, backend, health URL, URL) of every backend."""

    def set_health(self, pool: str, backend: str, health: Health) -> None:
        """Take the finding of one probe."""

    def set_round_trip(self, pool: str, backend: str, seconds: float | None) -> None:
        """Take how far away a backend is; None: unknown."""


async def _not_measured(url: str) -> float | None:
    return None


class HealthLoop:
    """One task per backend would drift apart; one sweep probes all of them side by side.

    A backend that does not answer keeps its last health until ``failures`` probes in a row have failed:
    one lost probe is not an outage. A connection that was refused is: nobody listens there.
    """

    def __init__(
        self,
        fleet: Fleet,
        probe: HealthProbe,
        interval_seconds: float,
        failures: int = 3,
        round_trip: Callable[[str], Awaitable[float | None]] = _not_measured,
    ) -> None:
        self._fleet = fleet
        self._probe = probe
        self._round_trip = round_trip
        self._interval_seconds = interval_seconds
        self._failures = failures
        self._failed: dict[tuple[str, str], int] = {}
        self._hurry = asyncio.Event()
        self._looking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.swept = asyncio.Event()

    def reconfigure(self, interval_seconds: float, failures: int) -> None:
        """Use other settings from the next sweep on."""
        self._interval_seconds = interval_seconds
        self._failures = failures

    def hurry(self) -> None:
        """Sweep now: the backends are others than a moment ago."""
        self._hurry.set()

    def look(self, pool: str, backend: str) -> None:
        """Probe one backend now: a failed request, or another replica, found it bad. One such probe at a time."""
        key = (pool, backend)
        if key in self._looking:
            return
        for endpoint in self._fleet.endpoints():
            if endpoint[:2] == key:
                task = asyncio.get_running_loop().create_task(self._probe_one(*endpoint))
                self._looking[key] = task
                task.add_done_callback(lambda _: self._looking.pop(key))

    async def run(self) -> None:
        """Sweep for ever; ends when it is cancelled."""
        while True:
            await self.sweep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_seconds):
                    await self._hurry.wait()
            self._hurry.clear()

    async def sweep(self) -> None:
        """Probe every backend once; ``swept`` is set after the first time."""
        endpoints = list(self._fleet.endpoints())
        await asyncio.gather(*(self._probe_one(*endpoint) for endpoint in endpoints))
        for gone in set(self._failed) - {endpoint[:2] for endpoint in endpoints}:
            del self._failed[gone]
        self.swept.set()

    async def _probe_one(self, pool: str, backend: str, health_url: str, url: str) -> None:
        """Both at once: a backend whose health is known does not wait for how far away it is."""
        await asyncio.gather(self._ask(pool, backend, health_url), self._measure(pool, backend, url))

    async def _measure(self, pool: str, backend: str, url: str) -> None:
        self._fleet.set_round_trip(pool, backend, await self._round_trip(url))

    async def _ask(self, pool: str, backend: str, health_url: str) -> None:
        health = await self._probe.probe(health_url)
        key = (pool, backend)
        if health.state is State.UNREACHABLE:
            self._failed[key] = self._failed.get(key, 0) + 1
            refused = health.detail.startswith("ConnectError")
            if self._failed[key] < self._failures and self.swept.is_set() and not refused:
                return
        else:
            self._failed[key] = 0
        self._fleet.set_health(pool, backend, health)
