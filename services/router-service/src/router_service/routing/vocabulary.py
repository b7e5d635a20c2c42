"""The closed lists of values in decisions, logs, labels, headers and docs. Extended only by ADR."""

from enum import StrEnum

from platform_contracts.backend_states import BackendState


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
    """Why a candidate could not accept a request."""

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
    REFUSED_BY_RULE = "refused_by_rule"
    MODEL_NOT_ALLOWED = "model_not_allowed"


REFUSALS = frozenset({Reason.REFUSED_BY_RULE, Reason.MODEL_NOT_ALLOWED})
"""Reasons of decisions that refuse a request by configuration, whatever the backends do."""


class Verdict(StrEnum):
    """The layer with the largest excess of a request over its pool's baseline."""

    ROUTING = "routing"
    EXECUTION = "execution"
    CAPACITY = "capacity"
    NONE = "none"


State = BackendState
"""The state that a backend's agent reports."""


class Unroutable(StrEnum):
    """Why no backend was chosen."""

    MODEL_NOT_FOUND = "model_not_found"
    NONE_READY = "none_ready"
    ALL_AT_LIMIT = "all_at_limit"
    HOME_AT_LIMIT = "home_at_limit"  # the backend that has the previous response is at its limit
    HOME_NOT_READY = "home_not_ready"  # it is not ready
    HOME_GONE = "home_gone"  # it is not in its pool
    REFUSED_BY_RULE = "refused_by_rule"
    MODEL_NOT_ALLOWED = "model_not_allowed"


class NotCopied(StrEnum):
    """Why a request that a rule's shadow takes was not copied."""

    STATEFUL = "stateful"  # its engine keeps the response, or has the previous one
    BODY_SIZE = "body_size"  # over limits.shadow_body_bytes
    MODEL_NOT_SERVED = "model_not_served"
    SAME_POOL = "same_pool"  # a fallback sent the request itself to the shadow's pool
    NO_SLOT = "no_slot"  # limits.shadow_slots copies were running
    POOL_FULL = "pool_full"  # its backends are at their limit, or requests wait for them
    NONE_READY = "none_ready"
    CLIENT_LEFT = "client_left"
    DRAINING = "draining"


class AffinityState(StrEnum):
    """The effect of session affinity on a request."""

    OFF = "off"  # no session id, or affinity is not enabled
    PLACED = "placed"  # First request of a session: rendezvous hashing chose.
    KEPT = "kept"  # The pinned backend accepted the request.
    BROKEN = "broken"  # The pinned backend could not accept the request.
