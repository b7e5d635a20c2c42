"""The backend with the fewest running requests of this router, weighted by its slow-start ramp.

The engine's own gauges lag by seconds, so all requests would go to the same backend meanwhile (vllm#49538). They only
break ties. Equal backends take turns.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence

from router_service.routing.features import Features
from router_service.routing.load import load_of
from router_service.routing.snapshot import BackendView, PoolView
from router_service.routing.standing import Standing


def scores(
    eligible: Sequence[BackendView], places: Sequence[int], pool: PoolView, features: Features
) -> list[float]:
    """Requests in flight with this one, per share of normal load; among equals the distance from the pool's position."""
    start, count = pool.round_robin, len(pool.backends)
    found = []
    for backend, place in zip(eligible, places, strict=True):
        found.append(_score(load_of(backend), (place - start) % count, count))
    return found


def best(
    standing: Standing, pool: PoolView, features: Features, tried: Collection[int], count: int
) -> list[tuple[int, float]]:
    """Return places and scores of the ``count`` best backends."""
    everyone = len(standing.backends)
    start = pool.round_robin % everyone
    found: list[tuple[int, float]] = []
    for load in standing.loads:
        places = standing.by_load[load]
        first = bisect_left(places, start)
        few = count + len(tried)
        in_turn = places[first : first + few] + places[: min(first, few)]
        found += [
            (place, _score(load, (place - start) % everyone, everyone))
            for place in in_turn[:few]
            if place not in tried
        ]
        if len(found) >= count:
            break
    return found[:count]


def _score(load: int, turn: int, count: int) -> float:
    """In requests. A turn is less than the smallest difference of two loads."""
    return (load + turn / count) / 1e6
