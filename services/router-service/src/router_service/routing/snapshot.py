"""The state that a decision reads: live objects, changed in place by their owners between decisions.

``decide`` reads them synchronously and never changes them. A record copies the values that were read, so that the
decision can be repeated from the record.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from router_service.routing.vocabulary import RejectedBecause, State

if TYPE_CHECKING:
    from router_service.routing.standing import Standing

NO_LIMIT = 1 << 30


@dataclass(slots=True, eq=False)
class BackendView:
    """One backend in this router's view.

    Attributes:
        in_flight: number of this router's running requests at the backend (counted by the router itself).
        limit: maximum of ``in_flight``.
        unusable: why health rules the backend out at any load, or None.
        breaker_open: True while its breaker blocks requests (also half-open while the probe runs).
        ramp: share of its normal load it may take, in (0, 1]: below 1 during slow start.
        waiting: the engine's last reported queue length, a hint that only breaks ties.
        state: the agent's last reported state, for people.
        seen_at: time of the last health result, on the clock of ``now`` (seconds); None: never.
        stores_responses: the engine may keep responses for later requests.
        round_trip_seconds: network round-trip time, for the ledger; no decision reads it. None: not measured.
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
    stores_responses: bool = True


@dataclass(slots=True, eq=False)
class PoolView:
    """A pool's backends in configured order, and its round-robin position.

    ``standing`` has the backends of a large pool sorted; it adds no information. ``unseen`` backends were left out by a
    log line; of them, ``unseen_in_flight`` and ``unseen_capacity`` (sum of ramps) are of eligible ones, and
    ``unseen_ejected`` were held back by breakers and ``unseen_unusable`` by their health. All are zero for a live pool.
    """

    name: str
    backends: list[BackendView] = field(default_factory=list)
    round_robin: int = 0
    unseen: int = 0
    unseen_in_flight: int = 0
    unseen_capacity: float = 0.0
    unseen_ejected: int = 0
    unseen_unusable: int = 0
    standing: "Standing | None" = None


Attempt = Literal["first", "retry", "resume"]


@dataclass(slots=True)
class Snapshot:
    """Everything that ``decide`` reads besides the request and the policy.

    ``pin`` is the backend that the affinity store names for the request's session, "" if none is known. It depends
    on the pool, which only the decision knows: ``find_pin``, where it is given, is asked for it instead.
    ``home`` is the pool of a backend that alone can serve the request well, because it has the response which the request
    continues; ``pin`` is then that backend, whatever the rules say about pools.
    ``tried`` are the backends whose attempt for this request failed. ``whole``: the decision is to list every backend.
    """

    pools: dict[str, PoolView]
    pin: str = ""
    tried: tuple[str, ...] = ()
    attempt: Attempt = "first"
    find_pin: Callable[[str], str] | None = None
    whole: bool = False
    home: str = ""
