"""Computes the load of one backend as a sortable number."""

from router_service.routing.snapshot import BackendView

_REQUEST = 1_000_000
_WAITING_AT_MOST = 100.0


def slots_of(backend: BackendView) -> int:
    """Return how many requests the backend takes at once, fewer during slow start but at least one."""
    limit = backend.limit
    return limit if backend.ramp == 1.0 else max(1, int(limit * backend.ramp))


def load_of(backend: BackendView) -> int:
    """Return the load with one more request, in millionths of a request per share of normal load.

    The engine's own queue length adds at most a thousandth of a request: it only breaks ties.
    """
    waiting = backend.waiting
    hint = 0 if not waiting else int((waiting if waiting < _WAITING_AT_MOST else _WAITING_AT_MOST) * 10)
    if backend.ramp == 1.0:
        return (backend.in_flight + 1) * _REQUEST + hint
    return int((backend.in_flight + 1) * _REQUEST / backend.ramp) + hint
