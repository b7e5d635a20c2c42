"""The result of a decision: the chosen backend, why it was chosen, and why each other backend was not."""

from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from router_service.routing.rules import Rule
from router_service.routing.snapshot import BackendView
from router_service.routing.vocabulary import AffinityState, Reason, RejectedBecause, Unroutable


class Candidate(NamedTuple):
    """One considered backend, with all its values that the decision read.

    ``score`` is the policy's score, lower is better; None for a rejected backend.
    """

    backend: str
    pool: str
    rejected_because: RejectedBecause | None
    score: float | None
    in_flight: int
    limit: int
    ramp: float
    waiting: float
    unusable: RejectedBecause | None
    breaker_open: bool

    @property
    def eligible(self) -> bool:
        """True if the backend could have accepted the request."""
        return self.rejected_because is None


Seen = tuple[str, str, int, int, float, float, RejectedBecause | None, bool]

read = attrgetter("name", "pool", "in_flight", "limit", "ramp", "waiting", "unusable", "breaker_open")
"""Copies the values of a :class:`BackendView` that a decision reads, as :data:`Seen`. Backends change right
afterwards. 64 of these cost 12 us, 64 candidates 35 us, and most decisions are never read.
"""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Eligible backends that a decision about a large pool does not name: what policies weigh of them."""

    pool: str
    count: int
    in_flight: int
    capacity: float


@dataclass(slots=True)
class Decision:
    """The result of ``decide``. ``chosen`` is None exactly if ``unroutable`` has the reason.

    ``class_name`` is the request's class, "" if none are configured.
    ``first_pool`` is where the rules sent the request, ``pool`` that of the chosen backend (a fallback,
    perhaps) or, without one, where the request waits or was refused; ``policy`` the name of what chose
    in it, ``pin`` the backend that the request's session is pinned to there, ``home`` the pool of the backend that has
    the response which the request continues. ``passed_over`` are matching
    rules whose pools do not serve the model. ``round_robin`` holds the position of each pool that was
    considered, for replay; ``place`` is that of the chosen backend in its pool. ``rejected``, ``eligible`` and ``scores``
    (of the eligible ones) are what :attr:`candidates` are made of. Of a large pool the decision names the best backends
    and some of the rejected ones: ``left_out`` and ``hidden`` (by pool and reason) count the others.
    """

    rule: Rule | None = None
    class_name: str = ""
    first_pool: str = ""
    pool: str = ""
    policy: str = ""
    reason: Reason = Reason.NONE_AVAILABLE
    chosen: BackendView | None = None
    unroutable: Unroutable | None = None
    affinity: AffinityState = AffinityState.OFF
    pin: str = ""
    home: str = ""
    rejected: list[tuple[Seen, RejectedBecause]] = field(default_factory=list)
    eligible: list[Seen] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    round_robin: dict[str, int] = field(default_factory=dict)
    place: int = -1
    left_out: LeftOut | None = None
    hidden: dict[str, dict[RejectedBecause, int]] | None = None

    def hide(self, pool: str, because: RejectedBecause, count: int) -> None:
        """Count rejected backends that are not named."""
        if self.hidden is None:
            self.hidden = {}
        self.hidden.setdefault(pool, {})[because] = count

    @property
    def candidates(self) -> list[Candidate]:
        """Every backend that is named, the rejected ones first."""
        refused = [Candidate(seen[0], seen[1], because, None, *seen[2:]) for seen, because in self.rejected]
        scored = zip(self.eligible, self.scores, strict=True)
        return refused + [Candidate(seen[0], seen[1], None, score, *seen[2:]) for seen, score in scored]

    @property
    def rule_name(self) -> str:
        """The rule's name, or ``default``."""
        return self.rule.name if self.rule is not None else "default"
