"""The queue of a pool whose backends are all at their limit: first in, first out per client, clients in turn.

Holds tickets and does not know what they wait for.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFull(Exception):
    """The queue is full."""


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """One entry of the queue. ``deadline`` is in seconds on the caller's clock.

    ``gave_way``: the queue was full, and a client with fewer tickets took this ticket's slot.
    """

    client: str
    deadline: float
    waiter: T
    gave_way: bool = False
    class_name: str = ""


class FairQueue(Generic[T]):
    """At most ``size`` tickets. :meth:`pop` takes the oldest ticket of the client whose turn it is.

    With one client this is a plain first-in, first-out queue. A client that fills it cannot keep others out: when the
    queue is full, the newest ticket of the client with the most tickets gives way. ``evicted`` receives that ticket.
    """

    __slots__ = ("_count", "_evicted", "_lines", "size")

    def __init__(self, size: int, evicted: Callable[[Ticket[T]], None] = lambda ticket: None) -> None:
        self.size = size
        self._evicted = evicted
        self._count = 0
        self._lines: OrderedDict[str, deque[Ticket[T]]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def push(self, client: str, deadline: float, waiter: T) -> Ticket[T]:
        """Append a ticket to the client's queue.

        Raises:
            QueueFull: the queue is full, and no other client has two tickets more than this one.
        """
        if self._count >= self.size:
            self.make_room(client)
        ticket = Ticket(client, deadline, waiter)
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = deque()
        line.append(ticket)
        self._count += 1
        return ticket

    def make_room(self, client: str) -> None:
        """Evict a ticket for a new one of ``client``.

        Raises:
            QueueFull: no other client has two tickets more than this one.
        """
        own = len(self._lines.get(client, ()))
        longest = max(map(len, self._lines.values()), default=0)
        if longest < own + 2:
            raise QueueFull
        self.evict()

    def evict(self) -> None:
        """Remove the newest ticket of the client with the most tickets."""
        client, longest = max(self._lines.items(), key=lambda item: len(item[1]))
        ticket = longest.pop()
        if not longest:
            del self._lines[client]
        self._count -= 1
        ticket.gave_way = True
        self._evicted(ticket)

    def pop(self, may_go: Callable[[str], bool] | None = None) -> Ticket[T] | None:
        """Remove and return the next ticket; its client's next turn comes after all other clients'.

        Clients that ``may_go`` refuses keep their turn. Returns None if no client is left.
        """
        client = next((c for c in self._lines if may_go is None or may_go(c)), None)
        if client is None:
            return None
        line = self._lines[client]
        ticket = line.popleft()
        self._count -= 1
        if line:
            self._lines.move_to_end(client)
        else:
            del self._lines[client]
        return ticket

    def remove(self, ticket: Ticket[T]) -> bool:
        """Remove the ticket from the queue; return False if it is no longer queued."""
        line = self._lines.get(ticket.client)
        if line is None or ticket not in line:
            return False
        line.remove(ticket)
        self._count -= 1
        if not line:
            del self._lines[ticket.client]
        return True

    def position(self, ticket: Ticket[T]) -> int:
        """Return how many queued tickets are served before this one if no ticket is added."""
        line = self._lines[ticket.client]
        own = line.index(ticket)
        clients = list(self._lines)
        turn = clients.index(ticket.client)
        before = own
        for index, client in enumerate(clients):
            if client != ticket.client:
                before += min(len(self._lines[client]), own + 1 if index < turn else own)
        return before
