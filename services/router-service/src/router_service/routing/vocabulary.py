"""The closed lists of words that decisions, logs, labels, headers and docs share. Extended only by ADR."""

from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    CANCELLED = "cancelled"
    UPSTREAM_ERROR = "upstream_error"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    REFUSED = "refused"


class RejectedBecause(StrEnum):
    """Why a candidate could not take a request."""

    NOT_READY = "not_ready"
    WARMING = "warming"
    DRAINING = "draining"
    STUCK = "stuck"
    UNREACHABLE = "unreachable"
    BREAKER_OPEN = "breaker_open"
    AT_LIMIT = "at_limit"
    ALREADY_TRIED = "already_tried"
    MODEL_NOT_SERVED = "model_not_served"


class Reason(StrEnum):
    """Why the chosen backend was chosen."""

    ONLY_CANDIDATE = "only_candidate"
    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    PREFIX_AFFINITY = "prefix_affinity"
    SESSION_AFFINITY = "session_affinity"
    AFFINITY_BROKEN = "affinity_broken"
    FALLBACK = "fallback"
    RETRY = "retry"
    RESUME = "resume"
    NONE_AVAILABLE = "none_available"


class Verdict(StrEnum):
    """The layer that owns the largest excess of a request over its pool's baseline."""

    ROUTING = "routing"
    EXECUTION = "execution"
    CAPACITY = "capacity"
    NONE = "none"


class State(StrEnum):
    """What a backend says it is doing (the agent's ``state``)."""

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


class Unroutable(StrEnum):
    """Why no backend was chosen."""

    MODEL_NOT_FOUND = "model_not_found"
    NONE_READY = "none_ready"
    ALL_AT_LIMIT = "all_at_limit"


class AffinityState(StrEnum):
    """What session affinity did for a request."""

    OFF = "off"  # no session id, or affinity is not enabled
    PLACED = "placed"  # first request of a session here: rendezvous hashing chose
    KEPT = "kept"  # the pinned backend took it
    BROKEN = "broken"  # the pinned backend could not take it
