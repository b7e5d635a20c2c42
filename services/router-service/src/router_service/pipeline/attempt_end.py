"""How one attempt can end: a closed list, as records, metrics and refusals name it."""

from enum import StrEnum


class End(StrEnum):
    """How an attempt ended."""

    COMPLETE = "complete"
    REJECTED = "rejected"  # a status that counts as a failed attempt
    CONNECT_FAILED = "connect_failed"
    STALE = "stale"
    BROKEN = "broken"  # its connection was lost
    MALFORMED = "malformed"  # not HTTP, or more than is taken
    ENGINE_ERROR = "engine_error"  # announced in band
    INCOMPLETE = "incomplete"  # a clean end without the terminal event
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    CLIENT_GONE = "client_gone"
    DIVERGED = "diverged"  # a continued stream that did not join what was there


TIMEOUTS = frozenset({End.CONNECT_TIMEOUT, End.FIRST_TOKEN_TIMEOUT, End.IDLE_TIMEOUT, End.TOTAL_TIMEOUT})
