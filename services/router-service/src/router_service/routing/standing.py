"""A large pool's backends, sorted as decisions need them. Its owner reports each change of a backend.

Everything here follows from the backends themselves: a `Standing` built from scratch equals one that was kept up to date.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from math import fsum

from router_service.routing.hashing import Rendezvous
from router_service.routing.load import load_of, slots_of
from router_service.routing.snapshot import BackendView
from router_service.routing.vocabulary import RejectedBecause

FROM_BACKENDS = 9
"""Smaller pools are read backend by backend: a log line names all of their backends, so that nothing else must be stored."""

Status = int | RejectedBecause | None
"""The load of an eligible backend, or why it is not eligible."""


class Standing:
    """Eligible backends ordered by load, and rejected backends by reason. Places are positions in ``backends``.

    Attributes:
        by_load: sorted places of the eligible backends by load; ``loads`` are its keys, sorted.
        eligible: sorted places of all eligible backends.
        rejected: sorted places by reason.
        in_flight: requests at the eligible backends.
        slow: ramps of the eligible backends below their normal load, by place.
        usable, slots, free: of the backends that are neither unhealthy nor held back by a breaker: their number, how
            many requests they take at once, and how many more they would take now.
    """

    __slots__ = (
        "_carried", "_free", "_slots", "backends", "by_load", "by_name", "eligible", "free", "in_flight", "loads",
        "place", "rejected", "rendezvous", "slots", "slow", "status", "usable",
    )  # fmt: skip

    def __init__(self, backends: Sequence[BackendView]) -> None:
        self.backends = list(backends)
        self.place = {backend: place for place, backend in enumerate(self.backends)}
        self.by_name = {backend.name: place for place, backend in enumerate(self.backends)}
        self.rendezvous = Rendezvous([backend.name for backend in self.backends])
        self.status: list[Status] = [None] * len(self.backends)
        self.by_load: dict[int, list[int]] = {}
        self.loads: list[int] = []
        self.eligible: list[int] = []
        self.rejected: dict[RejectedBecause, list[int]] = {}
        self.slow: dict[int, float] = {}
        self.in_flight = self.usable = self.slots = self.free = 0
        self._carried, self._slots, self._free = ([0] * len(self.backends) for _ in range(3))
        for backend in self.backends:
            self.update(backend)

    def update(self, backend: BackendView) -> None:
        """Take over every change of ``backend``. A backend that left the pool is ignored."""
        place = self.place.get(backend)
        if place is None:
            return
        in_flight, slots = backend.in_flight, slots_of(backend)
        status: Status = backend.unusable
        if status is None and backend.breaker_open:
            status = RejectedBecause.BREAKER_OPEN
        if status is not None:
            slots = 0
        elif in_flight >= slots:
            status = RejectedBecause.AT_LIMIT
        else:
            status = load_of(backend)
        before = self.status[place]
        if status != before:
            self._move(place, before, status)
            self.status[place] = status
        eligible = status.__class__ is int
        if eligible and backend.ramp != 1.0:
            self.slow[place] = backend.ramp
        elif self.slow:
            self.slow.pop(place, None)
        carried = in_flight if eligible else 0
        self.in_flight += carried - self._carried[place]
        self._carried[place] = carried
        if slots != self._slots[place]:
            self.usable += (slots > 0) - (self._slots[place] > 0)
            self.slots += slots - self._slots[place]
            self._slots[place] = slots
        free = slots - in_flight if slots > in_flight else 0
        self.free += free - self._free[place]
        self._free[place] = free

    def _move(self, place: int, before: Status, status: Status) -> None:
        was_eligible, is_eligible = isinstance(before, int), isinstance(status, int)
        if isinstance(before, int):
            places = self.by_load[before]
            if len(places) == 1:
                del self.by_load[before]
                del self.loads[bisect_left(self.loads, before)]
            else:
                del places[bisect_left(places, place)]
        elif before is not None:
            places = self.rejected[before]
            del places[bisect_left(places, place)]
            if not places:
                del self.rejected[before]
        if isinstance(status, int):
            same = self.by_load.get(status)
            if same is None:
                self.by_load[status] = [place]
                insort(self.loads, status)
            else:
                insort(same, place)
        elif status is not None:
            insort(self.rejected.setdefault(status, []), place)
        if was_eligible and not is_eligible:
            del self.eligible[bisect_left(self.eligible, place)]
        elif is_eligible and not was_eligible:
            insort(self.eligible, place)

    def is_eligible(self, place: int) -> bool:
        """Return whether the backend may accept a request without an earlier attempt there."""
        return self.status[place].__class__ is int

    def carried(self, but: Sequence[int]) -> tuple[int, float]:
        """Return requests in flight and capacity (the sum of ramps) of the eligible backends, those in ``but`` excluded."""
        in_flight = self.in_flight - sum(map(self._carried.__getitem__, but))
        others = len(self.eligible) - sum([self.status[place].__class__ is int for place in but])
        if not self.slow:
            return in_flight, float(others)
        slow = [ramp for place, ramp in self.slow.items() if place not in but]
        return in_flight, fsum([float(others - len(slow)), *slow])

    def state(self) -> tuple[object, ...]:
        """Return everything that decisions read, for comparison with a `Standing` built from scratch."""
        loads = (self.loads, self.by_load, self.eligible, self.rejected, self.status)
        return (*loads, self.in_flight, self.slow, self.usable, self.slots, self.free)
