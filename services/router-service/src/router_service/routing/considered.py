"""The backends of one pool as a decision considers them: read one by one, or as a large pool's `Standing` has them sorted.

Both give the same answer. `Listed` is what replay uses and lists every backend; `Sorted` costs the same for any size.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from router_service.routing.decision import Decision, LeftOut, read
from router_service.routing.features import Features
from router_service.routing.load import slots_of
from router_service.routing.policies import BEST, Choose
from router_service.routing.policy import Policy
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.standing import Standing
from router_service.routing.vocabulary import RejectedBecause

BEST_KEPT = 8
"""Number of eligible backends that a decision about a large pool keeps."""

HEALTHY = frozenset({RejectedBecause.BREAKER_OPEN, RejectedBecause.AT_LIMIT, RejectedBecause.ALREADY_TRIED})
"""Rejections of backends whose health is good."""

REJECTED_KEPT = 8
"""Number of rejected backends that a decision names for each pool and reason; it only counts the others."""


class Considered(Protocol):
    """The backends of one pool for one decision. ``count`` is the number of eligible ones."""

    count: int

    def reject(self, decision: Decision) -> bool:
        """Add the rejected backends to ``decision``; return whether one of them is at its limit."""

    def find(self, name: str) -> BackendView | None:
        """Return the eligible backend with this name, or None."""

    def choose(
        self, choose: Choose, features: Features, pinned: BackendView | None, decision: Decision
    ) -> None:
        """Choose ``pinned``, or the best backend by ``choose``, and add it with the eligible ones to ``decision``."""


class Listed:
    """Reads every backend.

    Open breakers hold back at most :func:`most_ejected` backends: past that the remaining ones are let through, in
    configured order.
    """

    __slots__ = ("_eligible", "_places", "_rejected", "_view", "count")

    def __init__(self, view: PoolView, snapshot: Snapshot, policy: Policy) -> None:
        self._view = view
        self._eligible: list[BackendView] = []
        self._places: list[int] = []
        self._rejected: list[tuple[BackendView, RejectedBecause]] = []
        ejected = view.unseen_ejected
        tried = snapshot.tried
        for place, backend in enumerate(view.backends):
            because = backend.unusable
            if because is None:
                if tried and backend.name in tried:
                    because = RejectedBecause.ALREADY_TRIED
                elif backend.breaker_open and ejected < most_ejected(view, policy):
                    ejected += 1
                    because = RejectedBecause.BREAKER_OPEN
                elif backend.in_flight >= (backend.limit if backend.ramp == 1.0 else slots_of(backend)):
                    because = RejectedBecause.AT_LIMIT
                else:
                    self._eligible.append(backend)
                    self._places.append(place)
                    continue
            self._rejected.append((backend, because))
        self.count = len(self._eligible)

    def reject(self, decision: Decision) -> bool:
        decision.round_robin[self._view.name] = self._view.round_robin
        if not self._rejected:
            return False
        decision.rejected += [(read(backend), because) for backend, because in self._rejected]
        return any(because is RejectedBecause.AT_LIMIT for _, because in self._rejected)

    def find(self, name: str) -> BackendView | None:
        return next((backend for backend in self._eligible if backend.name == name), None)

    def choose(
        self, choose: Choose, features: Features, pinned: BackendView | None, decision: Decision
    ) -> None:
        scores = choose(self._eligible, self._places, self._view, features)
        best = scores.index(min(scores)) if pinned is None else self._eligible.index(pinned)
        decision.eligible = list(map(read, self._eligible))
        decision.scores = scores
        decision.chosen, decision.place = self._eligible[best], self._places[best]


class Sorted:
    """Reads only the best backends of a pool that is kept sorted."""

    __slots__ = ("_standing", "_tried", "_view", "count")

    def __init__(self, view: PoolView, standing: Standing, tried: Sequence[int]) -> None:
        self._view = view
        self._standing = standing
        self._tried = tried
        self.count = len(standing.eligible) - sum(map(standing.is_eligible, tried))

    @classmethod
    def of(cls, view: PoolView, snapshot: Snapshot, policy: Policy) -> "Sorted | None":
        """Return None if the pool is not kept sorted, or the decision needs every backend."""
        standing = view.standing
        if standing is None or snapshot.whole:
            return None
        held_back = standing.rejected.get(RejectedBecause.BREAKER_OPEN)
        if held_back and len(held_back) > most_ejected(view, policy):
            return None  # which ones are let through depends on the order of all
        if not snapshot.tried:
            return cls(view, standing, ())
        names = (standing.by_name.get(name) for name in snapshot.tried)
        tried = {place for place in names if place is not None and view.backends[place].unusable is None}
        return cls(view, standing, sorted(tried))

    def reject(self, decision: Decision) -> bool:
        standing, tried = self._standing, self._tried
        decision.round_robin[self._view.name] = self._view.round_robin
        for because, places in standing.rejected.items():
            among = sum(standing.status[place] is because for place in tried)
            self._add(decision, because, places, len(places) - among)
        decision.rejected += [
            (read(standing.backends[place]), RejectedBecause.ALREADY_TRIED) for place in tried
        ]
        at_limit = standing.rejected.get(RejectedBecause.AT_LIMIT)
        return at_limit is not None and any(place not in tried for place in at_limit)

    def _add(self, decision: Decision, because: RejectedBecause, places: Sequence[int], count: int) -> None:
        named = islice((place for place in places if place not in self._tried), REJECTED_KEPT)
        decision.rejected += [(read(self._standing.backends[place]), because) for place in named]
        if count > REJECTED_KEPT:
            decision.hide(self._view.name, because, count - REJECTED_KEPT)

    def find(self, name: str) -> BackendView | None:
        place = self._standing.by_name.get(name)
        if place is None or place in self._tried or not self._standing.is_eligible(place):
            return None
        return self._standing.backends[place]

    def choose(
        self, choose: Choose, features: Features, pinned: BackendView | None, decision: Decision
    ) -> None:
        """With a kept pin nothing is ranked: the chosen backend is the only one named."""
        standing, tried = self._standing, self._tried
        if pinned is not None:
            best = [(standing.place[pinned], 0.0)]
        elif choose in BEST:
            best = BEST[choose](standing, self._view, features, tried, BEST_KEPT)
        else:
            best = self._ranked(choose, features)
        kept = [standing.backends[place] for place, _ in best]
        decision.eligible = list(map(read, kept))
        decision.scores = [score for _, score in best]
        decision.chosen, decision.place = kept[0], best[0][0]
        if self.count > len(kept):
            in_flight, capacity = standing.carried([*tried, *(place for place, _ in best)])
            decision.left_out = LeftOut(self._view.name, self.count - len(kept), in_flight, capacity)

    def _ranked(self, choose: Choose, features: Features) -> list[tuple[int, float]]:
        places = [place for place in self._standing.eligible if place not in self._tried]
        scores = choose([self._standing.backends[place] for place in places], places, self._view, features)
        ranked = sorted(zip(places, scores, strict=True), key=lambda one: one[1])
        return ranked[:BEST_KEPT]


def most_ejected(view: PoolView, policy: Policy) -> int:
    """Return how many of a pool's backends open breakers may block.

    ``max_ejected_ratio`` of the pool, and at least one. A breaker never blocks the last usable backend of several: it
    may have opened because the router or its network was slow.
    """
    size = len(view.backends) + view.unseen
    share = max(1, int(size * policy.max_ejected_ratio))
    if size == 1:
        return share
    if view.standing is not None:
        unusable = sum(len(p) for because, p in view.standing.rejected.items() if because not in HEALTHY)
        usable = len(view.backends) - unusable
    else:
        usable = sum(backend.unusable is None for backend in view.backends)
    return min(share, usable + view.unseen - view.unseen_unusable - 1)


def refuse_all(view: PoolView, snapshot: Snapshot, decision: Decision) -> None:
    """Reject every backend of a pool that does not serve the model."""
    because = RejectedBecause.MODEL_NOT_SERVED
    shortened = view.standing is not None and not snapshot.whole
    named = view.backends[:REJECTED_KEPT] if shortened else view.backends
    decision.rejected += [(read(backend), because) for backend in named]
    if len(named) < len(view.backends):
        decision.hide(view.name, because, len(view.backends) - len(named))
