"""Each backend in turn; one that cannot take a request is passed over."""

from collections.abc import Sequence

from router_service.routing.features import Features
from router_service.routing.snapshot import BackendView, PoolView


def scores(eligible: Sequence[BackendView], pool: PoolView, features: Features) -> list[float]:
    """Distance from the pool's position, counted over all its backends in configured order."""
    everyone = pool.backends
    count = len(everyone)
    place = {id(backend): index for index, backend in enumerate(everyone)}
    return [float((place[id(backend)] - pool.round_robin) % count) for backend in eligible]
