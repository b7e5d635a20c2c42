"""Rendezvous hashing with a bound on load: the same key goes to the same backend until that has its share.

Every replica computes the same order without asking anybody. The bound (consistent hashing with bounded
loads, Mirrokni et al. 2016) keeps a hot key from piling up on one backend.
"""

import math
from collections.abc import Sequence

from router_service.routing.features import Features
from router_service.routing.hashing import rendezvous
from router_service.routing.snapshot import BackendView, PoolView

LOAD_FACTOR = 1.25
"""A backend may have this many times the mean load before the next one in its key's order takes over."""

FEW = 8
"""This many requests at once (or a quarter of its limit) are no pile, whatever the mean is.

With few requests under way the mean is small and chance alone exceeds it: without this, replicas would
place one session in three differently at four requests per backend.
"""

_OVER_BOUND = 10.0


def prefix_scores(eligible: Sequence[BackendView], pool: PoolView, features: Features) -> list[float]:
    """Order for the prompt's beginning."""
    return _scores(features.prefix or features.request_id, eligible, pool)


def session_scores(eligible: Sequence[BackendView], pool: PoolView, features: Features) -> list[float]:
    """Order for a session's first placement."""
    return _scores(features.session, eligible, pool)


def _scores(key: str, eligible: Sequence[BackendView], pool: PoolView) -> list[float]:
    total = sum([backend.in_flight for backend in eligible]) + pool.unseen_in_flight + 1
    capacity = sum([backend.ramp for backend in eligible]) + pool.unseen_capacity
    share = LOAD_FACTOR * total / capacity
    found = []
    for backend, weight in zip(eligible, rendezvous(key, [b.name for b in eligible]), strict=True):
        score = 1.0 - weight
        in_flight = backend.in_flight
        if in_flight >= FEW or in_flight * 4 >= backend.limit or backend.ramp < 1.0:
            bound = math.ceil(max(share, min(FEW, backend.limit / 4)) * backend.ramp)
            if in_flight + 1 > bound:
                score += _OVER_BOUND + in_flight / bound
        found.append(score)
    return found
