"""The queue of one pool: a fair queue for each class of requests, all within one size."""

import sys
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from router_service.resilience.fair_queue import FairQueue, QueueFull, Ticket

T = TypeVar("T")


class ClassQueue(Generic[T]):
    """At most ``size`` tickets of all classes together. Without classes every ticket has the class "".

    A class with a share keeps that part of the queue, at least one ticket: when the queue is full, the newest ticket
    of the class that is furthest over its part gives way. ``evicted`` receives that ticket. ``lines`` has the queue of each
    class that has tickets.
    """

    __slots__ = ("_evicted", "lines", "shares", "size")

    def __init__(self, size: int, evicted: Callable[[Ticket[T]], None] = lambda ticket: None) -> None:
        self.size = size
        self.shares: Mapping[str, float] = {}
        self._evicted = evicted
        self.lines: dict[str, FairQueue[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))

    def push(self, client: str, deadline: float, waiter: T, class_name: str = "") -> Ticket[T]:
        """Append a ticket to the client's queue in its class.

        Raises:
            QueueFull: no ticket of another class, and none of another client of this class, can give way.
        """
        line = self.lines.get(class_name)
        if line is None:
            line = self.lines[class_name] = FairQueue(sys.maxsize, self._evicted)
        try:
            if len(self) >= self.size:
                self._make_room(class_name, line, client)
            ticket = line.push(client, deadline, waiter)
        finally:
            if not line:
                del self.lines[class_name]
        ticket.class_name = class_name
        return ticket

    def _make_room(self, class_name: str, line: FairQueue[T], client: str) -> None:
        if len(line) >= self._kept(class_name):
            line.make_room(client)
            return
        over = {name: len(other) - self._kept(name) for name, other in self.lines.items()}
        most = max(over, key=lambda name: (over[name], name))
        if over[most] <= 0:
            raise QueueFull
        self.lines[most].evict()
        if not self.lines[most]:
            del self.lines[most]

    def _kept(self, class_name: str) -> int:
        share = self.shares.get(class_name, 0.0)
        return max(1, int(share * self.size)) if share > 0 else 0

    def pop(self, may_go: Callable[[str], bool] | None = None, class_name: str = "") -> Ticket[T] | None:
        """Remove and return the next ticket of a class, or None if no client in it may go."""
        line = self.lines.get(class_name)
        if line is None:
            return None
        ticket = line.pop(may_go)
        if not line:
            del self.lines[class_name]
        return ticket

    def remove(self, ticket: Ticket[T]) -> bool:
        """Remove the ticket from the queue; return False if it is no longer queued."""
        line = self.lines.get(ticket.class_name)
        if line is None or not line.remove(ticket):
            return False
        if not line:
            del self.lines[ticket.class_name]
        return True

    def position(self, ticket: Ticket[T]) -> int:
        """Return how many tickets of its class are served before this one if no ticket is added."""
        return self.lines[ticket.class_name].position(ticket)

    def waiting(self) -> dict[str, int]:
        """Return the number of tickets of each class that has any."""
        return {name: len(line) for name, line in self.lines.items()}
