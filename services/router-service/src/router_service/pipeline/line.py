"""The queue of one pool, and the shares of its slots that clients and classes have. Knows no backend."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from router_service.pipeline.start import Hold, Start
from router_service.resilience.breaker import BreakerSettings
from router_service.resilience.class_queue import ClassQueue
from router_service.resilience.class_shares import ClassShares
from router_service.resilience.client_shares import ClientShares
from router_service.resilience.fair_queue import Ticket

Waiter = asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one configuration.

    ``max_in_flight_per_backend`` caps the engine's own limit, as its agent reports it, and is the limit if no agent
    reports one. None: no cap; the fleet's default if no agent reports a limit.
    ``queue_seconds`` is the longest time a request waits in a queue. ``client_share`` is the share of a pool's slots
    that one client may take while other clients use the pool. ``class_shares`` None: requests have no class.
    ``holds`` has the pools whose requests wait for the start of an engine.
    """

    max_in_flight_per_backend: int | None = None
    queue_size: int = 64
    queue_seconds: float = 5.0
    client_share: float = 1.0
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    retry_ratio: float = 0.2
    retry_minimum: int = 3
    class_shares: Mapping[str, float] | None = None
    lend_after_seconds: float = 10.0
    holds: Mapping[str, Hold] = field(default_factory=dict)


def _turn_away(ticket: Ticket[Waiter]) -> None:
    if not ticket.waiter.done():
        ticket.waiter.set_result(None)


class Line:
    """The queue of one pool, and the shares of its slots that clients and classes have.

    ``woken`` counts the requests that were woken and have not decided yet. Each counts in the shares of its client and
    class. ``classes`` is None if requests have no class. ``has_shares`` is True if clients or classes have shares, so that
    a request may have to wait although a slot is free. ``start`` is about the pool's first engine.
    """

    __slots__ = ("_looking", "classes", "has_shares", "queue", "shares", "start", "woken")

    def __init__(self, bounds: Bounds) -> None:
        self.queue: ClassQueue[Waiter] = ClassQueue(bounds.queue_size, _turn_away)
        self.shares = ClientShares(bounds.client_share)
        self.classes: ClassShares | None = None
        self.has_shares = bounds.client_share < 1.0
        self.start = Start()
        self.woken = 0
        self._looking: asyncio.TimerHandle | None = None

    def reconfigure(self, bounds: Bounds) -> None:
        """Apply new bounds; running and waiting requests stay counted."""
        self.queue.size = bounds.queue_size
        self.queue.shares = bounds.class_shares or {}
        self.shares.share = bounds.client_share
        self.has_shares = bounds.client_share < 1.0 or bounds.class_shares is not None
        if bounds.class_shares is None:
            self.classes = None
        elif self.classes is None:
            self.classes = ClassShares(bounds.class_shares, bounds.lend_after_seconds)
        else:
            self.classes.reconfigure(bounds.class_shares, bounds.lend_after_seconds)

    @property
    def busy(self) -> bool:
        """True while earlier requests are waiting or deciding."""
        return self.woken > 0 or bool(self.queue.lines)

    def class_counts(self) -> list[tuple[str, int, int, int]]:
        """Return name, waiting, running and started requests of each class; nothing if requests have no class."""
        classes = self.classes
        if classes is None:
            return []
        waiting = self.queue.waiting()
        return [
            (name, waiting.get(name, 0), classes.running.get(name, 0), classes.started.get(name, 0))
            for name in sorted({*classes.shares, *classes.started, *waiting})
        ]

    def begin(self, client: str, class_name: str) -> None:
        """Count a request in, in the shares of its client and class."""
        self.shares.begin(client)
        if self.classes is not None:
            self.classes.begin(class_name)

    def end(self, client: str, class_name: str) -> None:
        """Count a request out."""
        self.shares.end(client)
        if self.classes is not None:
            self.classes.end(class_name)

    def must_wait(
        self, client: str, class_name: str, now: float, slots: Callable[[], int], free: Callable[[], int]
    ) -> bool:
        """Return whether a new request must wait although a slot is free: its client has its share of the pool's
        ``slots``, or other classes keep the ``free`` ones. Both are counted only if needed. Called after ``shares.asks``.
        """
        if self.shares.full(client, now, slots):
            return True
        if self.classes is None:
            return False
        self.classes.asks(class_name, now)
        return not self.classes.may_start(class_name, free(), slots(), now)

    def call(self, free: int, slots: Callable[[], int], now: float) -> None:
        """Wake waiting requests for up to ``free`` slots of the pool's ``slots``, if their shares allow it."""

        def may_go(client: str) -> bool:
            return not self.shares.full(client, now, slots)

        while free > 0 and (ticket := self._next(may_go, free, slots, now)) is not None:
            self._wake(ticket)
            free -= 1

    def _next(
        self, may_go: Callable[[str], bool], free: int, slots: Callable[[], int], now: float
    ) -> Ticket[Waiter] | None:
        classes = self.classes
        names = list(self.queue.waiting())
        if classes is not None:
            total = slots()
            names = [
                name for name in classes.in_turn(names, total) if classes.may_start(name, free, total, now)
            ]
        for name in names:
            ticket = self.queue.pop(may_go, name)
            if ticket is not None:
                return ticket
        return None

    def call_all(self) -> None:
        """Wake every waiting request, so that it decides again."""
        for name, count in self.queue.waiting().items():
            for _ in range(count):
                ticket = self.queue.pop(class_name=name)
                if ticket is not None:
                    self._wake(ticket)

    def _wake(self, ticket: Ticket[Waiter]) -> None:
        if not ticket.waiter.done():
            ticket.waiter.set_result(None)
        self.woken += 1
        self.begin(ticket.client, ticket.class_name)

    def look_again(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when an idle class may lend its slots, as long as requests wait: nothing else may do so."""
        if self.classes is None or self._looking is not None:
            return

        def look() -> None:
            self._looking = None
            wake()
            if len(self.queue):
                self.look_again(wake)

        self._looking = asyncio.get_running_loop().call_later(self.classes.lend_after, look)
