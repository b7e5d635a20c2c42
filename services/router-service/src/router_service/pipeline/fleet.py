"""The live state that decisions read: backends, breakers, queues, client shares, retry budget.

The only module that changes in-flight counts. Must not know how health is probed or what a request contains.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence

from router_service.pipeline.line import Bounds, Line, Waiter
from router_service.ports import Endpoint, Health
from router_service.resilience.breaker import Breaker
from router_service.resilience.fair_queue import Ticket
from router_service.resilience.retry_budget import RetryBudget
from router_service.routing.load import slots_of
from router_service.routing.snapshot import BackendView, PoolView
from router_service.routing.standing import FROM_BACKENDS, Standing
from router_service.routing.vocabulary import RejectedBecause, State

_REJECTED_BY_STATE = {
    State.WARMING: RejectedBecause.WARMING,
    State.DRAINING: RejectedBecause.DRAINING,
    State.STUCK: RejectedBecause.STUCK,
    State.UNREACHABLE: RejectedBecause.UNREACHABLE,
}


IN_FLIGHT = 64
"""Limit of concurrent requests at a backend that reports none of its own, where none is configured."""

MANY_UNSETTLED = 16
RAMP_STEP_SECONDS = 0.05
"""While more than `MANY_UNSETTLED` backends have a ramp or an open breaker, all of them are updated this often."""


class Member:
    """One backend: its view for decisions, its breaker, its endpoint for probes, and its engine's own limit."""

    __slots__ = ("breaker", "endpoint", "gone", "health", "slots", "view")

    def __init__(self, pool: str, endpoint: Endpoint, bounds: Bounds) -> None:
        self.endpoint = endpoint
        self.view = BackendView(endpoint.name, pool, endpoint.url)
        self.breaker = Breaker(bounds.breaker)
        self.gone = False
        self.health: Health | None = None
        self.slots: int | None = None
        self.limit(bounds)

    def limit(self, bounds: Bounds) -> None:
        """Set the limit of concurrent requests: the engine's own, at most the configured one."""
        cap = bounds.max_in_flight_per_backend
        own = self.slots or cap or IN_FLIGHT
        self.view.limit = own if cap is None else min(own, cap)


class Fleet:
    """The backends of every pool. ``clock`` returns seconds.

    ``on_gone`` is called with the name and URL of a removed backend. ``on_trouble`` is called with the pool and name
    of a backend that a probe or its breaker has just marked unusable.
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
        self._by_name: dict[str, dict[str, BackendView]] = {}
        self._unsettled: set[Member] = set()
        self._refreshed_at = 0.0
        self.reconfigure(pools, bounds)

    def reconfigure(self, pools: Sequence[str], bounds: Bounds) -> None:
        """Apply new pools and bounds; running attempts keep their backend and stay counted."""
        self.bounds = bounds
        self.budget.reconfigure(bounds.retry_ratio, bounds.retry_minimum)
        for name in pools:
            if name not in self.pools:
                self.pools[name] = PoolView(name)
                self.lines[name] = Line(bounds)
            self.lines[name].reconfigure(bounds)
            self.lines[name].start.hold = bounds.holds.get(name)
        for name in [name for name in self.pools if name not in pools]:
            self.set_endpoints(name, ())
            del self.pools[name]
            del self._by_name[name]
            line = self.lines.pop(name)
            line.call_all()
        for member in self._members.values():
            member.limit(bounds)
            member.breaker.reconfigure(bounds.breaker)
            self._changed(member.view)
        for name in self.pools:
            self.wake(name)

    def set_endpoints(self, pool: str, endpoints: Sequence[Endpoint]) -> None:
        """Make ``endpoints`` the pool's backends. A backend whose name and address did not change keeps its state."""
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
        view.standing = Standing(backends) if len(backends) >= FROM_BACKENDS else None
        self._by_name[pool] = {backend.name: backend for backend in backends}
        for gone in kept.values():
            member = self._members[gone]
            member.gone = True
            self._unsettled.discard(member)
            if not gone.in_flight:
                del self._members[gone]
            self._on_gone(gone.name, gone.url)
        self.wake(pool)

    def members(self) -> Iterator[Member]:
        """Iterate over every backend that is configured or discovered."""
        return iter(
            [m for pool in self.pools.values() for m in map(self._members.__getitem__, pool.backends)]
        )

    def endpoints(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield pool, name, health URL and URL of every backend."""
        for member in self.members():
            endpoint = member.endpoint
            yield member.view.pool, endpoint.name, endpoint.health_url, endpoint.url

    def set_health(self, pool: str, name: str, health: Health) -> None:
        """Store the result of a probe; ignore unknown names (backends that have just been removed)."""
        backend = self.find(pool, name)
        if backend is None:
            return
        now = self._clock()
        member = self._members[backend]
        if health is member.health:  # The probe returns the same object while the answer is the same.
            backend.seen_at = now
            return
        member.health = health
        was_usable = backend.unusable is None
        had_state = backend.seen_at is not None
        backend.state = health.state
        backend.waiting = health.waiting
        backend.stores_responses = health.stores_responses
        backend.seen_at = now
        backend.unusable = (
            None if health.ready else _REJECTED_BY_STATE.get(health.state, RejectedBecause.NOT_READY)
        )
        more = health.slots is not None and health.slots != member.slots
        if more:
            member.slots = health.slots
            member.limit(self.bounds)
        self._changed(backend)
        if health.ready and not was_usable and had_state:
            member.breaker.came_back(now)
            self._unsettled.add(member)
            self._settle(member, now)
        if health.ready and not was_usable:
            self.refresh(now)
        if health.ready and (more or not was_usable):
            self.wake(pool)
        if health.ready and not was_usable:
            self._call_held(pool)
        if health.start_seconds is not None:
            self.lines[pool].start.reported = health.start_seconds
        if was_usable and not health.ready:
            self.refresh(now)
            self._on_trouble(pool, name)

    def set_round_trip(self, pool: str, name: str, seconds: float | None) -> None:
        """Store the round-trip time to a backend in seconds; ignore unknown names."""
        backend = self.find(pool, name)
        if backend is not None:
            backend.round_trip_seconds = seconds

    def _changed(self, backend: BackendView) -> None:
        """Keep the pool's order up to date. Called after every change of what decisions read of ``backend``."""
        view = self.pools.get(backend.pool)
        if view is not None and view.standing is not None:
            view.standing.update(backend)

    def find(self, pool: str, name: str) -> BackendView | None:
        """Return a backend by its pool and name, None if it is gone."""
        return self._by_name.get(pool, {}).get(name)

    def refresh(self, now: float) -> None:
        """Update breakers and ramps to ``now``. Costs nothing while every backend is settled.

        With many unsettled backends, ramps are at most `RAMP_STEP_SECONDS` old.
        """
        if not self._unsettled:
            return
        if len(self._unsettled) > MANY_UNSETTLED and now - self._refreshed_at < RAMP_STEP_SECONDS:
            return
        self._refreshed_at = now
        for member in list(self._unsettled):
            self._settle(member, now)
        for pool in {member.view.pool for member in self._unsettled}:
            self._relate_ramps(pool)

    def _settle(self, member: Member, now: float) -> None:
        view = member.view
        view.breaker_open = member.breaker.blocked(now)
        view.ramp = member.breaker.ramp(now)
        if member.breaker.state == "closed" and view.ramp >= 1.0:
            self._unsettled.discard(member)
        self._changed(view)

    def _relate_ramps(self, pool: str) -> None:
        """Scale the ramps of a pool in which all backends are in slow start: the furthest one has its full limit.

        Otherwise a rolling restart of a pool would refuse requests that its warm engines could serve.
        """
        view = self.pools.get(pool)
        if view is None or self.usable(pool) > len(self._unsettled):
            return  # at least one of them takes a whole load
        usable = [b for b in view.backends if b.unusable is None and not b.breaker_open]
        furthest = max((backend.ramp for backend in usable), default=1.0)
        if furthest < 1.0:
            for backend in usable:
                backend.ramp /= furthest
                self._changed(backend)

    def slots(self, pool: str) -> int:
        """Return how many requests the usable backends of ``pool`` take at once."""
        view = self.pools[pool]
        if view.standing is not None:
            return view.standing.slots
        return sum(slots_of(b) for b in view.backends if b.unusable is None and not b.breaker_open)

    def must_wait(self, pool: str, client: str, class_name: str, now: float) -> bool:
        """Return whether the next request of ``client`` must wait at ``now`` although a backend of ``pool`` is free:
        its client has its share, or other classes keep the free slots.
        """
        line = self.lines[pool]
        if not line.has_shares:
            return False
        contended = line.shares.asks(client, now)
        if not contended and line.classes is None:
            return False
        return line.must_wait(
            client, class_name, now, lambda: self.slots(pool), lambda: self._free(pool, line)
        )

    def usable(self, pool: str) -> int:
        """Return the number of backends of ``pool`` that could serve a request now if they had a free slot."""
        view = self.pools[pool]
        if view.standing is not None:
            return view.standing.usable
        return sum(1 for b in view.backends if b.unusable is None and not b.breaker_open)

    # -- one attempt -----------------------------------------------------------------------------

    def begin(self, backend: BackendView, client: str, class_name: str = "") -> None:
        """Count an attempt of ``client`` at ``backend`` in."""
        backend.in_flight += 1
        line = self.lines.get(backend.pool)
        if line is not None:
            line.shares.begin(client)
            if line.classes is not None:
                line.classes.begin(class_name)
                line.classes.count_start(class_name)
        if self._unsettled and (member := self._members[backend]) in self._unsettled:
            member.breaker.begin()
            backend.breaker_open = member.breaker.blocked(self._clock())
        self._changed(backend)

    def end(self, backend: BackendView, healthy: bool | None, client: str, class_name: str = "") -> None:
        """Count an attempt out. ``healthy``: the backend answered (True) or failed (False); None if neither is known."""
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
            now = self._clock()
            if member in self._unsettled:
                backend.breaker_open = breaker.blocked(now)
            self.refresh(now)
        self._changed(backend)
        if member.gone and not backend.in_flight:
            self._members.pop(backend, None)
        line = self.lines.get(backend.pool)
        if line is not None:
            line.shares.end(client)
            if line.classes is not None:
                line.classes.end(class_name)
            if line.queue.lines:
                self.wake(backend.pool)

    # -- waiting ---------------------------------------------------------------------------------

    def wait(
        self, pool: str, client: str, deadline: float, class_name: str = "", size: int | None = None
    ) -> tuple[Ticket[Waiter], int]:
        """Queue a request; return its ticket and its position. ``size`` replaces the configured size of the queue.

        The ticket's waiter is resolved at the request's turn, or when the ticket gave way.

        Raises:
            QueueFull: no other class or client can give way.
        """
        waiter: Waiter = asyncio.get_running_loop().create_future()
        line = self.lines[pool]
        if line.classes is not None:
            line.classes.asks(class_name, self._clock())
            line.look_again(lambda: self.wake(pool))
        line.queue.size = self.bounds.queue_size if size is None else size
        ticket = line.queue.push(client, deadline, waiter, class_name)
        position = line.queue.position(ticket)
        self.wake(pool)  # Slots may be free that the clients ahead may not take.
        return ticket, position

    def leave(self, pool: str, ticket: Ticket[Waiter]) -> None:
        """Leave the queue, after using the turn or giving up. Call once per ticket."""
        line = self.lines.get(pool)
        if line is None or ticket.gave_way or line.queue.remove(ticket) or not ticket.waiter.done():
            return
        line.woken -= 1
        line.end(ticket.client, ticket.class_name)
        self.wake(pool)

    def wake(self, pool: str) -> None:
        """Wake as many waiting requests as there are free slots that their clients may take."""
        line = self.lines.get(pool)
        if line is None or not len(line.queue):
            return
        if line.start.awaited_since is not None and self.usable(pool):
            line.start.ready(self._clock())
        free = self._free(pool, line)
        if free > 0:
            line.call(free, lambda: self.slots(pool), self._clock())

    def held(self, pool: str) -> int:
        """Return how many requests wait for the first usable backend of ``pool``."""
        line = self.lines[pool]
        return len(line.queue) if line.start.hold is not None and not self.usable(pool) else 0

    def _call_held(self, pool: str) -> None:
        """Let requests that wait for a pool's first backend decide again, because its fallback ``pool`` became usable."""
        for other, line in self.lines.items():
            hold = line.start.hold
            if hold is not None and pool in hold.fallbacks and not self.usable(other):
                line.call_all()

    def _free(self, pool: str, line: Line) -> int:
        """Return the free slots of a pool's usable backends that no woken request will take."""
        view = self.pools[pool]
        if view.standing is not None:
            return view.standing.free - line.woken
        usable = [b for b in view.backends if b.unusable is None and not b.breaker_open]
        return sum(max(0, slots_of(b) - b.in_flight) for b in usable) - line.woken
