"""The states of a backend, for the agent's status and metrics, the router's decisions, alerts and charts."""

from enum import StrEnum


class BackendState(StrEnum):
    """The state of a backend according to its agent. Extended only by ADR."""

    STARTING = "starting"
    WARMING = "warming"
    IDLE = "idle"
    WORKING = "working"
    SATURATED = "saturated"
    STUCK = "stuck"
    THROTTLED = "throttled"
    DRAINING = "draining"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


NOT_WORKING = frozenset({BackendState.STUCK, BackendState.UNREACHABLE})
"""States in which a backend makes no progress with its requests."""
