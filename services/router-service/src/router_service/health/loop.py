"""Probes every backend once an interval, spread evenly over it, and reports to the fleet.

Each backend has a stable phase in the interval, so that a thousand probes never come at once. A new backend, and one
that was reported bad, is probed immediately.
"""

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Protocol

from router_service.ports import Health, HealthProbe
from router_service.routing.hashing import unit
from router_service.routing.vocabulary import State

STEP_SECONDS = 0.01
"""Probes that are due within this time begin together: one wake-up of the event loop for all of them."""

ROUND_TRIPS_PER_SECOND = 50
"""Most round trips measured per second. Each opens a connection, so a large fleet is measured in turns."""


class Fleet(Protocol):
    """The owner of the backends."""

    def endpoints(self) -> Iterable[tuple[str, str, str, str]]:
        """Return (pool, backend, health URL, URL) of every backend."""

    def set_health(self, pool: str, backend: str, health: Health) -> None:
        """Store the result of one probe."""

    def set_round_trip(self, pool: str, backend: str, seconds: float | None) -> None:
        """Take the network round trip to a backend; None: unknown."""


async def _not_measured(url: str) -> float | None:
    return None


@dataclass(frozen=True, slots=True)
class Pace:
    """The interval of probes, how many run at once, and how many must fail in a row."""

    interval_seconds: float
    failures: int = 3
    max_in_flight: int = 256


class _Entry:
    """One backend's probes. ``looking``: :meth:`HealthLoop.look` requested the running or next probe."""

    __slots__ = (
        "again", "backend", "failed", "gone", "health_url", "looking", "measure_at", "phase", "pool", "running",
        "url", "waiting",
    )  # fmt: skip

    def __init__(self, pool: str, backend: str, health_url: str, url: str) -> None:
        self.pool = pool
        self.backend = backend
        self.health_url = health_url
        self.url = url
        self.phase = unit(pool, backend)
        self.measure_at = 0.0
        self.failed = 0
        self.running = self.waiting = self.looking = self.again = self.gone = False


class HealthLoop:
    """Probes the fleet's backends.

    A backend that does not answer keeps its last health until ``failures`` probes in a row have failed: one lost
    probe is not an outage. A refused connection counts at once: no process listens there.
    """

    def __init__(
        self,
        fleet: Fleet,
        probe: HealthProbe,
        pace: Pace,
        round_trip: Callable[[str], Awaitable[float | None]] = _not_measured,
    ) -> None:
        self._fleet = fleet
        self._probe = probe
        self._pace = pace
        self._round_trip = round_trip
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._due: list[tuple[float, int, _Entry]] = []
        self._order = 0
        self._waiting: deque[_Entry] = deque()
        self._unprobed: set[_Entry] = set()
        self._measuring: set[asyncio.Task[None]] = set()
        self._wake: asyncio.Future[None] | None = None
        self._changed = True
        self.in_flight = 0
        self.swept = asyncio.Event()

    def reconfigure(self, pace: Pace) -> None:
        """Use other settings from the next probes on."""
        self._pace = pace

    def hurry(self) -> None:
        """Read the list of backends again, and probe the new ones now."""
        self._changed = True
        self._wake_up()

    def look(self, pool: str, backend: str) -> None:
        """Probe one backend now: a failed request, or another replica, found it bad. One such probe at a time."""
        entry = self._entries.get((pool, backend))
        if entry is None or entry.looking:
            return
        entry.looking = True
        if entry.running:
            entry.again = True  # the running probe may have been answered before the trouble began
        elif entry.waiting:
            self._waiting.remove(entry)
            self._waiting.appendleft(entry)
        else:
            entry.waiting = True
            self._waiting.appendleft(entry)
        self._begin_waiting()

    async def run(self) -> None:
        """Probe until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                if self._changed:
                    self._follow(loop.time())
                self._begin_due(loop.time())
                wake = self._wake = loop.create_future()
                seconds = self._due[0][0] - loop.time() if self._due else self._pace.interval_seconds
                timer = loop.call_later(max(STEP_SECONDS, seconds), self._wake_up)
                try:
                    await wake
                finally:
                    timer.cancel()
        finally:
            for task in self._measuring:
                task.cancel()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _follow(self, now: float) -> None:
        """Take over the fleet's list of backends; the new ones are due now."""
        self._changed = False
        listed = {(pool, backend): (health, url) for pool, backend, health, url in self._fleet.endpoints()}
        for key, entry in list(self._entries.items()):
            if listed.get(key) != (entry.health_url, entry.url):
                del self._entries[key]
                entry.gone = True
                self._unprobed.discard(entry)
                self._probe.forget(entry.health_url)
        turn = len(listed) / ROUND_TRIPS_PER_SECOND
        for (pool, backend), (health, url) in listed.items():
            if (pool, backend) in self._entries:
                continue
            entry = self._entries[pool, backend] = _Entry(pool, backend, health, url)
            entry.measure_at = now + (entry.phase * turn if turn > self._pace.interval_seconds else 0.0)
            if not self.swept.is_set():
                self._unprobed.add(entry)
            self._push(now, entry)
        if not self._unprobed:
            self.swept.set()

    def _push(self, due: float, entry: _Entry) -> None:
        self._order += 1
        heapq.heappush(self._due, (due, self._order, entry))

    def _begin_due(self, now: float) -> None:
        due = self._due
        interval = self._pace.interval_seconds
        while due and due[0][0] <= now + STEP_SECONDS / 2:
            entry = heapq.heappop(due)[2]
            if entry.gone:
                continue
            # The next time of its phase that is at least half an interval away.
            turns = math.ceil(now / interval + 0.5 - entry.phase)
            self._push((turns + entry.phase) * interval, entry)
            if not entry.running and not entry.waiting:
                entry.waiting = True
                self._waiting.append(entry)
        self._begin_waiting()

    def _begin_waiting(self) -> None:
        while self._waiting and self.in_flight < self._pace.max_in_flight:
            entry = self._waiting.popleft()
            entry.waiting = False
            if not entry.gone:
                self._begin(entry)

    def _begin(self, entry: _Entry) -> None:
        self.in_flight += 1
        entry.running = True
        self._probe.begin(entry.health_url, partial(self._ended, entry))
        now = monotonic()
        if now >= entry.measure_at:
            turn = len(self._entries) / ROUND_TRIPS_PER_SECOND
            entry.measure_at = now + (turn if turn > self._pace.interval_seconds else 0.0)
            task = asyncio.get_running_loop().create_task(self._measure(entry))
            self._measuring.add(task)
            task.add_done_callback(self._measuring.discard)

    async def _measure(self, entry: _Entry) -> None:
        """Separate from the probe: health does not wait for the measurement."""
        seconds = await self._round_trip(entry.url)
        if not entry.gone:
            self._fleet.set_round_trip(entry.pool, entry.backend, seconds)

    def _ended(self, entry: _Entry, health: Health) -> None:
        self.in_flight -= 1
        entry.running = False
        if entry.again:
            entry.again = False
            entry.waiting = True
            self._waiting.appendleft(entry)
        else:
            entry.looking = False
        if not entry.gone:
            self._judge(entry, health)
            self._unprobed.discard(entry)
        if not self._unprobed:
            self.swept.set()
        self._begin_waiting()

    def _judge(self, entry: _Entry, health: Health) -> None:
        if health.state is State.UNREACHABLE:
            entry.failed += 1
            if entry.failed < self._pace.failures and self.swept.is_set() and not health.refused:
                return
        else:
            entry.failed = 0
        self._fleet.set_health(entry.pool, entry.backend, health)
