"""What a decision says: the backend, why it, and why not each of the others."""

from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from router_service.routing.rules import Rule
from router_service.routing.snapshot import BackendView
from router_service.routing.vocabulary import AffinityState, Reason, RejectedBecause, Unroutable


class Candidate(NamedTuple):
    """One backend that was considered, with everything the decision read of it.

    ``score`` is what the policy gave it, lower is better; None for a rejected one.
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
        """Whether it could have taken the request."""
        return self.rejected_because is None


Seen = tuple[str, str, int, int, float, float, RejectedBecause | None, bool]

read = attrgetter("name", "pool", "in_flight", "limit", "ramp", "waiting", "unusable", "breaker_open")
"""Copies what a decision reads of a :class:`BackendView`, as :data:`Seen`. Backends change right afterwards;
64 of these cost 12 us, 64 candidates 35 us, and most decisions are never looked at."""


@dataclass(slots=True)
class Decision:
    """The answer of ``decide``. ``chosen`` is None exactly when ``unroutable`` says why.

    ``first_pool`` is where the rules sent the request, ``pool`` that of the chosen backend (a fallback,
    perhaps) or, without one, where the request waits or was refused; ``policy`` the name of what chose
    in it, ``pin`` the backend that the request's session is pinned to there. ``passed_over`` are matching
    rules whose pools do not serve the model. ``round_robin`` holds the position of each pool that was
    considered, for replay. ``rejected``, ``eligible`` and ``scores`` (of the eligible ones) are what
    :attr:`candidates` are made of.
    """

    rule: Rule | None = None
    first_pool: str = ""
    pool: str = ""
    policy: str = ""
    reason: Reason = Reason.NONE_AVAILABLE
    chosen: BackendView | None = None
    unroutable: Unroutable | None = None
    affinity: AffinityState = AffinityState.OFF
    pin: str = ""
    rejected: list[tuple[Seen, RejectedBecause]] = field(default_factory=list)
    eligible: list[Seen] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    round_robin: dict[str, int] = field(default_factory=dict)

    @property
    def candidates(self) -> list[Candidate]:
        """Every backend that was considered, the rejected ones first."""
        refused = [Candidate(seen[0], seen[1], because, None, *seen[2:]) for seen, because in self.rejected]
        scored = zip(self.eligible, self.scores, strict=True)
        return refused + [Candidate(seen[0], seen[1], None, score, *seen[2:]) for seen, score in scored]

    @property
    def rule_name(self) -> str:
        """The rule's name, or ``default``."""
        return self.rule.name if self.rule is not None else "default"
