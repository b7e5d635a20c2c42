"""What the pipeline reads of a configuration; parses and checks nothing."""

from dataclasses import dataclass

from router_service.routing.policy import Policy


@dataclass(frozen=True, slots=True)
class Settings:
    """What the pipeline reads of one configuration; swapped as a whole on reload."""

    policy: Policy
    max_attempts: int
    reject: frozenset[int]
    queue_seconds: float
    session_header: bytes
    max_body_bytes: int
    trace_ratio: float = 0.01
