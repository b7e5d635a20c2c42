"""Rendezvous hashing with bounded loads: a key goes to the same backend until that backend has its share.

Every replica computes the same order without communication. The bound (consistent hashing with bounded loads,
Mirrokni et al. 2016) keeps a hot key from overloading one backend.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from math import fsum
from operator import itemgetter

from router_service.routing.features import Features
from router_service.routing.hashing import SPAN, rendezvous
from router_service.routing.snapshot import BackendView, PoolView
from router_service.routing.standing import Standing

LOAD_FACTOR = 1.25
"""A backend may have this many times the mean load before the next backend in the key's order takes over."""

FEW = 8
"""This many concurrent requests (or a quarter of the limit) are always allowed, whatever the mean load is.

With few concurrent requests the mean is small, and chance alone exceeds it. Without this constant, replicas would
place one session in three differently at four requests per backend.
"""

_OVER_BOUND = 10.0


def prefix_scores(
    eligible: Sequence[BackendView], places: Sequence[int], pool: PoolView, features: Features
) -> list[float]:
    """Order for the prompt's beginning."""
    return _scores(features.prefix or features.request_id, eligible, pool)


def session_scores(
    eligible: Sequence[BackendView], places: Sequence[int], pool: PoolView, features: Features
) -> list[float]:
    """Order for a session's first placement."""
    return _scores(features.session, eligible, pool)


def prefix_best(
    standing: Standing, pool: PoolView, features: Features, tried: Collection[int], count: int
) -> list[tuple[int, float]]:
    """Return places and scores of the ``count`` best backends for the prompt's beginning."""
    return _best(features.prefix or features.request_id, standing, tried, count)


def session_best(
    standing: Standing, pool: PoolView, features: Features, tried: Collection[int], count: int
) -> list[tuple[int, float]]:
    """Return places and scores of the ``count`` best backends for a session's first placement."""
    return _best(features.session, standing, tried, count)


def _scores(key: str, eligible: Sequence[BackendView], pool: PoolView) -> list[float]:
    total = sum([backend.in_flight for backend in eligible]) + pool.unseen_in_flight + 1
    capacity = fsum([backend.ramp for backend in eligible]) + pool.unseen_capacity
    share = LOAD_FACTOR * total / capacity
    weights = rendezvous(key, [b.name for b in eligible])
    return [1.0 - weight + _excess(backend, share) for backend, weight in zip(eligible, weights, strict=True)]


def _best(key: str, standing: Standing, tried: Collection[int], count: int) -> list[tuple[int, float]]:
    in_flight, capacity = standing.carried(tuple(tried))
    share = LOAD_FACTOR * (in_flight + 1) / capacity
    weights = standing.rendezvous.weights(key)
    found: list[tuple[int, float]] = []
    over: list[tuple[int, float]] = []
    for place in _from_highest(weights, 4 * count):
        if place in tried or not standing.is_eligible(place):
            continue
        excess = _excess(standing.backends[place], share)
        (over if excess else found).append((place, 1.0 - weights[place] / SPAN + excess))
        if len(found) == count:
            return found
    over.sort(key=itemgetter(1))
    return (found + over)[:count]


def _from_highest(weights: Sequence[int], enough: int) -> Iterator[int]:
    """Yield places by falling weight. About ``enough`` of them are sorted first: more are rarely needed."""
    cut = int(SPAN * (1.0 - enough / len(weights))) if enough < len(weights) else 0
    first = [place for place, weight in enumerate(weights) if weight >= cut]
    yield from sorted(first, key=weights.__getitem__, reverse=True)
    if cut:
        rest = [place for place, weight in enumerate(weights) if weight < cut]
        yield from sorted(rest, key=weights.__getitem__, reverse=True)


def _excess(backend: BackendView, share: float) -> float:
    """Return 0 for a backend within its bound, otherwise more than any weight, growing with its load."""
    in_flight = backend.in_flight
    if in_flight >= FEW or in_flight * 4 >= backend.limit or backend.ramp < 1.0:
        bound = math.ceil(max(share, min(FEW, backend.limit / 4)) * backend.ramp)
        if in_flight + 1 > bound:
            return _OVER_BOUND + in_flight / bound
    return 0.0
