"""What a decision reads of the world: live objects, changed in place by their owners between decisions.

``decide`` only reads them, in one synchronous go; a record copies what was read, so that the decision
can be made again from the record.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from router_service.routing.vocabulary import RejectedBecause, State

NO_LIMIT = 1 << 30


@dataclass(slots=True, eq=False)
class BackendView:
    """One backend as this router sees it.

    Attributes:
        in_flight: requests this router has there now (the router's own count is the truth).
        limit: how many it may have.
        unusable: why it may not be chosen whatever its load (health), or None.
        breaker_open: its breaker lets nothing through now (half-open with the probe under way, too).
        ramp: share of its normal load it may take, in (0, 1]: below 1 during slow start.
        waiting: the engine's own queue length as last seen, a hint that only breaks ties.
        state: what its agent last said, for people.
        seen_at: when health last heard from it, on the clock of ``now`` (seconds); None: never.
        round_trip_seconds: a packet there and back, for the ledger; no decision reads it. None: not measured.
    """

    name: str
    pool: str
    url: str
    in_flight: int = 0
    limit: int = NO_LIMIT
    unusable: RejectedBecause | None = RejectedBecause.NOT_READY
    breaker_open: bool = False
    ramp: float = 1.0
    waiting: float = 0.0
    state: State = State.UNKNOWN
    seen_at: float | None = None
    round_trip_seconds: float | None = None


@dataclass(slots=True, eq=False)
class PoolView:
    """A pool's backends in configured order, and where its round robin stands.

    ``unseen``, ``unseen_in_flight`` and ``unseen_capacity`` (sum of ramps) are of eligible backends that a
    log line left out: zero for a live pool, whose backends are all here.
    """

    name: str
    backends: list[BackendView] = field(default_factory=list)
    round_robin: int = 0
    unseen: int = 0
    unseen_in_flight: int = 0
    unseen_capacity: float = 0.0


Attempt = Literal["first", "retry", "resume"]


@dataclass(slots=True)
class Snapshot:
    """Everything ``decide`` reads beside the request and the policy.

    ``pin`` is the backend that the affinity store names for the request's session, "" if none is known. It depends
    on the pool, which only the decision knows: ``find_pin``, where it is given, is asked for it instead.
    ``tried`` are the backends whose attempt for this request failed.
    """

    pools: dict[str, PoolView]
    pin: str = ""
    tried: tuple[str, ...] = ()
    attempt: Attempt = "first"
    find_pin: Callable[[str], str] | None = None
