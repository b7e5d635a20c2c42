"""The backend with the fewest of this router's own requests, weighted by its slow-start ramp.

The engine's own gauges lag by seconds and would send every request to the same backend meanwhile
(vllm#49538): they only break ties. Equal backends take turns.
"""

from collections.abc import Sequence

from router_service.routing.features import Features
from router_service.routing.snapshot import BackendView, PoolView

_HINT = 1e-3
_TURN = 1e-6


def scores(eligible: Sequence[BackendView], pool: PoolView, features: Features) -> list[float]:
    """Requests in flight with this one, per share of normal load; hint and turn only break ties."""
    start = pool.round_robin
    count = len(eligible)
    return [
        (backend.in_flight + 1) / backend.ramp
        + _HINT * (backend.waiting if backend.waiting < 100.0 else 100.0) / 101.0
        + _TURN * ((index - start) % count)
        for index, backend in enumerate(eligible)
    ]
