"""Each backend in turn; a backend that cannot accept the request is skipped."""

from bisect import bisect_left
from collections.abc import Collection, Sequence

from router_service.routing.features import Features
from router_service.routing.snapshot import BackendView, PoolView
from router_service.routing.standing import Standing


def scores(
    eligible: Sequence[BackendView], places: Sequence[int], pool: PoolView, features: Features
) -> list[float]:
    """Distance from the pool's position, counted over all its backends in configured order."""
    start, count = pool.round_robin, len(pool.backends)
    return [float((place - start) % count) for place in places]


def best(
    standing: Standing, pool: PoolView, features: Features, tried: Collection[int], count: int
) -> list[tuple[int, float]]:
    """Return places and scores of the ``count`` next backends."""
    everyone, places = len(standing.backends), standing.eligible
    start = pool.round_robin % everyone
    first = bisect_left(places, start)
    found: list[tuple[int, float]] = []
    for index in range(len(places)):
        place = places[(first + index) % len(places)]
        if place not in tried:
            found.append((place, float((place - start) % everyone)))
            if len(found) == count:
                break
    return found
