"""The settings that the pipeline reads. Parses and checks nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router_service.routing.policy import Policy
from router_service.routing.session_sources import SessionSources


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the pipeline from one configuration; swapped as a whole on reload. ``replica`` is this router's name.

    ``rules`` are the rules as they are written, for people to read. ``routing`` are the sections of the configuration
    that rules refer to. ``shadow_slots`` is how many copies of requests run at once; requests with more than
    ``shadow_body_bytes`` are not copied.
    """

    policy: Policy
    max_attempts: int
    reject: frozenset[int]
    queue_seconds: float
    sessions: SessionSources
    max_body_bytes: int
    trace_ratio: float = 0.01
    replica: bytes = b""
    rules: Sequence[Mapping[str, Any]] = ()
    routing: Mapping[str, Any] = field(default_factory=dict)
    shadow_slots: int = 8
    shadow_body_bytes: int = 1024 * 1024
    replica_name: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "replica_name", self.replica.decode("latin-1"))
