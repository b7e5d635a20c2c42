"""The line in front of a pool whose backends are all at their limit: first come first served per client,
clients in turn. Holds tickets; knows nothing of what they wait for."""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFull(Exception):
    """No place left in the line."""


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """One place in the line. ``deadline`` is on the caller's clock, in seconds."""

    client: str
    deadline: float
    waiter: T


class FairQueue(Generic[T]):
    """At most ``size`` tickets. :meth:`pop` takes the oldest ticket of the client whose turn it is.

    With one client this is a plain first-in first-out line; a client that fills it cannot keep another
    one waiting behind all of its own.
    """

    __slots__ = ("_count", "_lines", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._count = 0
        self._lines: OrderedDict[str, deque[Ticket[T]]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def push(self, client: str, deadline: float, waiter: T) -> Ticket[T]:
        """Take a place at the end of the client's line.

        Raises:
            QueueFull: all places are taken.
        """
        if self._count >= self.size:
            raise QueueFull
        ticket = Ticket(client, deadline, waiter)
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = deque()
        line.append(ticket)
        self._count += 1
        return ticket

    def pop(self) -> Ticket[T] | None:
        """Remove and return the next ticket; its client then goes to the end of the turn. None if empty."""
        if not self._lines:
            return None
        client, line = next(iter(self._lines.items()))
        ticket = line.popleft()
        self._count -= 1
        if line:
            self._lines.move_to_end(client)
        else:
            del self._lines[client]
        return ticket

    def remove(self, ticket: Ticket[T]) -> bool:
        """Leave the line; False if the ticket is no longer in it."""
        line = self._lines.get(ticket.client)
        if line is None or ticket not in line:
            return False
        line.remove(ticket)
        self._count -= 1
        if not line:
            del self._lines[ticket.client]
        return True

    def position(self, ticket: Ticket[T]) -> int:
        """How many tickets are served before this one if nobody else comes."""
        line = self._lines[ticket.client]
        own = line.index(ticket)
        clients = list(self._lines)
        turn = clients.index(ticket.client)
        before = own
        for index, client in enumerate(clients):
            if client != ticket.client:
                before += min(len(self._lines[client]), own + 1 if index < turn else own)
        return before
