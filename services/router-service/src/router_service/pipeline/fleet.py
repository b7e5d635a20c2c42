"""The live state that decisions read: backends, breakers, waiting lines, retry budget.

The only place where in-flight counts change. It refuses to know how health was found out and what a
request is.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from router_service.ports import Endpoint, Health
from router_service.resilience.breaker import Breaker, BreakerSettings
from router_service.resilience.fair_queue import FairQueue, Ticket
from router_service.resilience.retry_budget import RetryBudget
from router_service.routing.snapshot import BackendView, PoolView
from router_service.routing.vocabulary import RejectedBecause, State

Waiter = asyncio.Future[None]

_REJECTED_BY_STATE = {
    State.WARMING: RejectedBecause.WARMING,
    State.DRAINING: RejectedBecause.DRAINING,
    State.STUCK: RejectedBecause.STUCK,
    State.UNREACHABLE: RejectedBecause.UNREACHABLE,
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one configuration; ``queue_seconds`` is how long a request waits at most."""

    max_in_flight_per_backend: int = 64
    queue_size: int = 64
    queue_seconds: float = 5.0
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    retry_ratio: float = 0.2
    retry_minimum: int = 3


class Member:
    """One backend: what decisions see of it, its breaker, where its health is asked."""

    __slots__ = ("breaker", "endpoint", "gone", "view")

    def __init__(self, pool: str, endpoint: Endpoint, bounds: Bounds) -> None:
        self.endpoint = endpoint
        self.view = BackendView(endpoint.name, pool, endpoint.url, limit=bounds.max_in_flight_per_backend)
        self.breaker = Breaker(bounds.breaker)
        self.gone = False


class Line:
    """Requests waiting for a place in one pool; ``woken`` have been called but not decided yet."""

    __slots__ = ("queue", "woken")

    def __init__(self, size: int) -> None:
        self.queue: FairQueue[Waiter] = FairQueue(size)
        self.woken = 0

    @property
    def busy(self) -> bool:
        """True while somebody is before a newcomer."""
        return self.woken > 0 or len(self.queue) > 0


class Fleet:
    """Every pool's backends. ``clock`` gives seconds.

    ``on_gone`` hears name and URL of a removed backend; ``on_trouble`` hears pool and name of one that has
    just been found unusable, by a probe or by its breaker.
    """

    def __init__(
        self,
        pools: Sequence[str],
        bounds: Bounds,
        clock: Callable[[], float],
        on_gone: Callable[[str, str], None] = lambda name, url: None,
        on_trouble: Callable[[str, str], None] = lambda pool, name: None,
    ) -> None:
        self._clock = clock
        self._on_gone = on_gone
        self._on_trouble = on_trouble
        self.bounds = bounds
        self.budget = RetryBudget(bounds.retry_ratio, bounds.retry_minimum)
        self.pools: dict[str, PoolView] = {}
        self.lines: dict[str, Line] = {}
        self._members: dict[BackendView, Member] = {}
        self._unsettled: set[Member] = set()
        self.apply(pools, bounds)

    def apply(self, pools: Sequence[str], bounds: Bounds) -> None:
        """Use other pools and bounds from now on; what is running keeps its backend and its count."""
        self.bounds = bounds
        self.budget.reconfigure(bounds.retry_ratio, bounds.retry_minimum)
        for name in pools:
            if name not in self.pools:
                self.pools[name] = PoolView(name)
                self.lines[name] = Line(bounds.queue_size)
            self.lines[name].queue.size = bounds.queue_size
        for name in [name for name in self.pools if name not in pools]:
            self.set_endpoints(name, ())
            del self.pools[name]
            line = self.lines.pop(name)
            while (ticket := line.queue.pop()) is not None:
                self._call(line, ticket)
        for member in self._members.values():
            member.view.limit = bounds.max_in_flight_per_backend
            member.breaker.reconfigure(bounds.breaker)
        for name in self.pools:
            self.wake(name)

    def set_endpoints(self, pool: str, endpoints: Sequence[Endpoint]) -> None:
        """Make ``endpoints`` the pool's backends; the same name at the same address keeps its state."""
        view = self.pools[pool]
        kept = {backend.name: backend for backend in view.backends}
        backends = []
        for endpoint in endpoints:
            known = kept.get(endpoint.name)
            if known is not None and known.url == endpoint.url:
                self._members[known].endpoint = endpoint
                backends.append(kept.pop(endpoint.name))
            else:
                member = Member(pool, endpoint, self.bounds)
                self._members[member.view] = member
                backends.append(member.view)
        view.backends = backends
        for gone in kept.values():
            member = self._members[gone]
            member.gone = True
            self._unsettled.discard(member)
            if not gone.in_flight:
                del self._members[gone]
            self._on_gone(gone.name, gone.url)
        self.wake(pool)

    def members(self) -> Iterator[Member]:
        """Every backend that is configured or discovered now."""
        return iter(
            [m for pool in self.pools.values() for m in map(self._members.__getitem__, pool.backends)]
        )

    def endpoints(self) -> Iterator[tuple[str, str, str, str]]:
        """Pool, name, health URL and URL of every backend."""
        for member in self.members():
            endpoint = member.endpoint
            yield member.view.pool, endpoint.name, endpoint.health_url, endpoint.url

    def set_health(self, pool: str, name: str, health: Health) -> None:
        """Take what a probe found; unknown names are ignored (they have just been removed)."""
        backend = self._find(pool, name)
        if backend is None:
            return
        now = self._clock()
        was_usable = backend.unusable is None
        had_state = backend.seen_at is not None
        backend.state = health.state
        backend.waiting = health.waiting
        backend.seen_at = now
        backend.unusable = (
            None if health.ready else _REJECTED_BY_STATE.get(health.state, RejectedBecause.NOT_READY)
        )
        member = self._members[backend]
        if health.ready and not was_usable and had_state:
            member.breaker.came_back(now)
            self._unsettled.add(member)
        if health.ready and not was_usable:
            self.refresh(now)
            self.wake(pool)
        if was_usable and not health.ready:
            self.refresh(now)
            self._on_trouble(pool, name)

    def set_round_trip(self, pool: str, name: str, seconds: float | None) -> None:
        """Take how far away a backend is; unknown names are ignored."""
        backend = self._find(pool, name)
        if backend is not None:
            backend.round_trip_seconds = seconds

    def _find(self, pool: str, name: str) -> BackendView | None:
        view = self.pools.get(pool)
        return next((b for b in view.backends if b.name == name), None) if view is not None else None

    def refresh(self, now: float) -> None:
        """Bring breakers and ramps up to ``now``. Costs nothing while every backend is well."""
        if not self._unsettled:
            return
        for member in list(self._unsettled):
            view = member.view
            view.breaker_open = member.breaker.blocked(now)
            view.ramp = member.breaker.ramp(now)
            if member.breaker.state == "closed" and view.ramp >= 1.0:
                self._unsettled.discard(member)
        for pool in {member.view.pool for member in self._unsettled}:
            self._relate_ramps(pool)

    def _relate_ramps(self, pool: str) -> None:
        """Slow start is a share among peers: where all of them are starting, the furthest takes a whole load.

        Without this a rolling restart of a pool would refuse requests that its warm engines could serve.
        """
        view = self.pools.get(pool)
        usable = [b for b in view.backends if b.unusable is None and not b.breaker_open] if view else []
        furthest = max((backend.ramp for backend in usable), default=1.0)
        if furthest < 1.0:
            for backend in usable:
                backend.ramp /= furthest

    def usable(self, pool: str) -> int:
        """Backends of ``pool`` a request could go to now if they had a free place."""
        return sum(1 for b in self.pools[pool].backends if b.unusable is None and not b.breaker_open)

    # -- one attempt -----------------------------------------------------------------------------

    def begin(self, backend: BackendView) -> None:
        """An attempt goes to ``backend``."""
        backend.in_flight += 1
        member = self._members[backend]
        if member in self._unsettled:
            member.breaker.begin()
            backend.breaker_open = member.breaker.blocked(self._clock())

    def end(self, backend: BackendView, healthy: bool | None) -> None:
        """The attempt has ended. ``healthy``: the backend answered, failed, or (None) showed neither."""
        backend.in_flight -= 1
        assert backend.in_flight >= 0
        member = self._members[backend]
        breaker = member.breaker
        if healthy is True:
            breaker.succeeded(self._clock())
        elif healthy is False:
            was_closed = breaker.state == "closed"
            breaker.failed(self._clock())
            if not member.gone:
                self._unsettled.add(member)
                if was_closed and breaker.state == "open":
                    self._on_trouble(backend.pool, backend.name)
        else:
            breaker.cancelled()
        if self._unsettled:
            self.refresh(self._clock())
        if member.gone and not backend.in_flight:
            self._members.pop(backend, None)
        line = self.lines.get(backend.pool)
        if line is not None and line.busy:
            self.wake(backend.pool)

    # -- waiting ---------------------------------------------------------------------------------

    def wait(self, pool: str, client: str, deadline: float) -> Ticket[Waiter]:
        """Take a place in the pool's line; the ticket's waiter is done when it is this request's turn.

        Raises:
            QueueFull: no place left.
        """
        waiter: Waiter = asyncio.get_running_loop().create_future()
        return self.lines[pool].queue.push(client, deadline, waiter)

    def leave(self, pool: str, ticket: Ticket[Waiter]) -> None:
        """The request waits no longer: its turn was used, or it gave up. Called once per ticket."""
        line = self.lines.get(pool)
        if line is not None and not line.queue.remove(ticket) and ticket.waiter.done():
            line.woken -= 1
            self.wake(pool)

    def wake(self, pool: str) -> None:
        """Call as many waiting requests as there are free places."""
        line = self.lines.get(pool)
        if line is None or not len(line.queue):
            return
        free = -line.woken
        for backend in self.pools[pool].backends:
            if backend.unusable is None and not backend.breaker_open:
                free += max(0, max(1, int(backend.limit * backend.ramp)) - backend.in_flight)
        while free > 0:
            ticket = line.queue.pop()
            if ticket is None:
                return
            self._call(line, ticket)
            free -= 1

    def _call(self, line: Line, ticket: Ticket[Waiter]) -> None:
        if not ticket.waiter.done():
            ticket.waiter.set_result(None)
        line.woken += 1
