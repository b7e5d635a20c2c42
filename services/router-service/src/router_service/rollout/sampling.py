"""Samples of bounded size of the requests of one pool, in which no client hides the others. Reads no random source."""

import heapq
from collections.abc import Iterable

from router_service.rollout.plan import NOT_COUNTED, Arm, Measured, Row
from router_service.routing.hashing import digest

MOST_ROWS = 500
"""Maximum sample of one pool, so that the log line of a decision stays under 64 KiB."""

_NO_BOUND = 1 << 256


class Counted:
    """The requests of one pool in one window: their number, and the rows with the smallest hashes of their ids.

    If a full sample is more than half of one client, that client's row with the largest hash goes first. So a client that
    floods a pool leaves half of the sample to the others. Samples of several windows merge to that of all their requests.
    """

    def __init__(self, salt: str = "") -> None:
        self.requests = 0
        self._salt = salt
        self._added = 0
        self._size = 0
        self._rows: dict[str, list[tuple[int, int, Measured]]] = {}
        """By client, a heap of the negative hashes: the largest kept hash is the first to go."""
        self.below = _NO_BOUND
        """Requests of all clients were sampled below this hash."""
        self.capped: dict[str, int] = {}
        """The same for single clients that had over half of the sample."""

    def add(self, request_id: str, client: str, row: Measured) -> None:
        """Count one request."""
        self.requests += row[2] != NOT_COUNTED
        self.put(int(digest("sample", self._salt, request_id), 16), client, row)

    def put(self, rank: int, client: str, row: Measured) -> None:
        """Sample one request with the hash ``rank``."""
        if rank >= min(self.below, self.capped.get(client, _NO_BOUND)):
            return
        self._added += 1
        heap = self._rows.setdefault(client, [])
        heapq.heappush(heap, (-rank, self._added, row))
        self._size += 1
        if self._size > MOST_ROWS:
            self._evict(client)

    def _evict(self, added: str) -> None:
        most = max(self._rows, key=lambda name: (len(self._rows[name]), name == added))
        if len(self._rows) > 1 and len(self._rows[most]) > MOST_ROWS // 2:
            self.capped[most] = -heapq.heappop(self._rows[most])[0]
        else:
            largest = min(self._rows, key=lambda name: self._rows[name][0])
            self.below = -heapq.heappop(self._rows[largest])[0]
            if not self._rows[largest]:
                del self._rows[largest]
        self._size -= 1

    def ranked(self) -> list[tuple[int, str, Measured]]:
        """Return the sampled rows with their clients, by their hashes."""
        rows = [(-rank, client, row) for client, heap in self._rows.items() for rank, _, row in heap]
        return sorted(rows, key=lambda one: one[:2])


def merged(windows: Iterable[Counted]) -> Counted:
    """Return the requests of several windows as those of one."""
    every = list(windows)
    total = Counted()
    total.requests = sum(one.requests for one in every)
    total.below = min((one.below for one in every), default=_NO_BOUND)
    for one in every:
        for client, bound in one.capped.items():
            total.capped[client] = min(bound, total.capped.get(client, _NO_BOUND))
    for rank, client, row in heapq.merge(*(one.ranked() for one in every), key=lambda one: one[:2]):
        total.put(rank, client, row)
    return total


def arm_of(counted: Counted, numbers: dict[str, int]) -> Arm:
    """Return the requests as evidence. ``numbers`` has the numbers of clients and gets those of new ones."""
    bounds = sorted((bound, client) for client, bound in counted.capped.items())
    flooding = bounds[0][1] if bounds else None
    first = min(counted.below, bounds[0][0] if bounds else _NO_BOUND)
    second = min(counted.below, bounds[1][0] if len(bounds) > 1 else _NO_BOUND)
    rows: list[Row] = []
    uniform = 0
    for rank, client, row in counted.ranked():
        if rank < second:
            rows.append((*row, numbers.setdefault(client, len(numbers))))
            uniform += rank < first
    if flooding is None or first == second:
        return Arm(counted.requests, tuple(rows))
    return Arm(counted.requests, tuple(rows), uniform, numbers.setdefault(flooding, len(numbers)))
