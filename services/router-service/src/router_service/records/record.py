"""The decision record: one per request, refused and failed ones too. Holds no prompt, answer, key or raw session id.

The pipeline fills the slots while the request runs; text is made of them only when somebody reads.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from router_service.routing.decision import Candidate, Decision
from router_service.routing.features import Features
from router_service.routing.vocabulary import Outcome, Verdict

LOGGED_BEST = 8
"""How many of the eligible candidates the log line keeps beside the chosen and the rejected ones."""

LEDGER_PARTS = (
    "edge",
    "router_queue",
    "router",
    "earlier_attempts",
    "connect",
    "network",
    "engine_queue",
    "prefill",
    "first_byte_wait",
    "relay",
    "unexplained",
)
"""Parts of the time to first token. `first_byte_wait` stands for both engine parts where the engine does not report them;
`earlier_attempts` is there when attempts failed before the one that answered."""


@dataclass(slots=True)
class AttemptRecord:
    """One call to a backend. Times in milliseconds; ``outcome`` is the pipeline's word for how it ended."""

    backend: str
    outcome: str = ""
    status: int = 0
    connect_ms: float | None = None
    first_byte_ms: float | None = None
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"backend": self.backend, "outcome": self.outcome, "status": self.status}
        fields["connect_ms"] = _ms(self.connect_ms)
        fields["first_byte_ms"] = _ms(self.first_byte_ms)
        if self.detail:
            fields["detail"] = self.detail
        return fields


class DecisionRecord:
    """Everything about one request. ``started_at`` is epoch seconds."""

    __slots__ = (
        "attempts",
        "client_id",
        "config_hash",
        "decide_ms",
        "decision",
        "decode_ms",
        "detail",
        "edge_skewed",
        "features",
        "first_decision",
        "first_token_ms",
        "ledger",
        "outcome",
        "path",
        "queue_position",
        "request_id",
        "started_at",
        "status",
        "tokens_completion",
        "tokens_prompt",
        "total_ms",
        "trace_id",
        "verdict",
    )

    def __init__(self, request_id: str, path: str, started_at: float, config_hash: str) -> None:
        self.request_id = request_id
        self.path = path
        self.started_at = started_at
        self.config_hash = config_hash
        self.client_id = ""
        self.trace_id = ""
        self.features: Features | None = None
        self.decision: Decision | None = None
        self.first_decision: Decision | None = None
        self.queue_position: int | None = None
        self.attempts: list[AttemptRecord] = []
        self.ledger: dict[str, float | None] = {}
        self.edge_skewed = False
        self.decide_ms: float | None = None
        self.first_token_ms: float | None = None
        self.decode_ms: float | None = None
        self.total_ms: float | None = None
        self.tokens_prompt: int | None = None
        self.tokens_completion: int | None = None
        self.status = 0
        self.outcome: Outcome | None = None
        self.verdict = Verdict.NONE
        self.detail = ""

    def decided(self, decision: Decision) -> None:
        """Keep a decision. The first one is what ``rule``, ``candidates`` and replay are about; a later one
        (a retry) changes only where the request went."""
        if self.first_decision is None:
            self.first_decision = decision
        self.decision = decision

    @property
    def shortened(self) -> bool:
        """Whether the log line leaves candidates out."""
        return self.first_decision is not None and len(self.first_decision.eligible) > LOGGED_BEST

    def as_dict(self, *, whole: bool = False) -> dict[str, Any]:
        """Return the record as JSON-ready data.

        The log line (``whole`` false) keeps the chosen candidate, every rejected one and the best
        :data:`LOGGED_BEST`, with a count of all.
        """
        features, decision = self.features, self.decision
        first = self.first_decision
        fields: dict[str, Any] = {
            "request_id": self.request_id,
            "time": datetime.fromtimestamp(self.started_at, UTC).isoformat(timespec="microseconds"),
            "client_id": self.client_id,
            "config_hash": self.config_hash,
            "path": self.path,
            "model": features.model if features else "",
            "stream": features.stream if features else False,
            "features": features.recorded() if features else {},
            "conditions": dict(features.truths) if features else {},
        }
        if first is not None and decision is not None:
            chosen = decision.chosen
            considered = first.candidates
            candidates = considered if whole else _worth_logging(considered, first)
            fields |= {
                "rule": decision.rule_name,
                "passed_over": first.passed_over,
                "first_pool": first.first_pool,
                "pool": decision.pool,
                "policy": decision.policy,
                "reason": decision.reason,
                "candidates": [_candidate(c) for c in candidates],
                "candidates_total": len(considered),
                "snapshot": _snapshot(first, considered, candidates),
                "affinity": {"state": first.affinity},
                "chosen": chosen.name if chosen is not None else None,
            }
        else:
            fields |= {
                "rule": None,
                "pool": None,
                "reason": "none_available",
                "candidates": [],
                "chosen": None,
            }
        fields |= {
            "queue_position": self.queue_position,
            "attempts": [attempt.as_dict() for attempt in self.attempts],
            "ttft_ledger_ms": {part: _ms(value) for part, value in self.ledger.items()},
            "decide_ms": _ms(self.decide_ms),
            "first_token_ms": _ms(self.first_token_ms),
            "decode_ms": _ms(self.decode_ms),
            "total_ms": _ms(self.total_ms),
            "tokens": {"prompt": self.tokens_prompt, "completion": self.tokens_completion},
            "status": self.status,
            "outcome": self.outcome,
            "verdict": self.verdict,
        }
        if self.trace_id:
            fields["trace_id"] = self.trace_id
        if self.edge_skewed:
            fields["edge_skewed"] = True
        if self.detail:
            fields["detail"] = self.detail
        return fields


def _snapshot(first: Decision, considered: list[Candidate], kept: list[Candidate]) -> dict[str, Any]:
    """What was read beside the candidates; of those that are left out, the sums that policies weigh."""
    fields: dict[str, Any] = {"round_robin": first.round_robin, "pin": first.pin}
    if len(kept) < len(considered):
        there = {id(candidate) for candidate in kept}
        left_out = [candidate for candidate in considered if id(candidate) not in there]
        fields["left_out"] = {
            "pool": left_out[0].pool,  # eligible ones are all of one pool
            "count": len(left_out),
            "in_flight": sum(candidate.in_flight for candidate in left_out),
            "capacity": sum(candidate.ramp for candidate in left_out),
        }
    return fields


def _ms(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _worth_logging(candidates: list[Candidate], decision: Decision) -> list[Candidate]:
    if len(decision.eligible) <= LOGGED_BEST:
        return candidates  # in their own order, on which turns depend
    rejected = [c for c in candidates if c.rejected_because is not None]
    eligible = sorted((c for c in candidates if c.eligible), key=lambda c: c.score or 0.0)
    chosen = decision.chosen.name if decision.chosen is not None else ""
    best = eligible[:LOGGED_BEST]
    return rejected + best + [c for c in eligible[LOGGED_BEST:] if c.backend == chosen]


def _candidate(candidate: Candidate) -> dict[str, Any]:
    """Only what differs from an unloaded, healthy, unlimited backend, so that a line stays short."""
    fields: dict[str, Any] = {
        "backend": candidate.backend,
        "pool": candidate.pool,
        "eligible": candidate.eligible,
        "rejected_because": candidate.rejected_because,
        "in_flight": candidate.in_flight,
        "limit": candidate.limit,
        "score": None if candidate.score is None else round(candidate.score, 6),
    }
    if candidate.ramp != 1.0:
        fields["ramp"] = candidate.ramp
    if candidate.waiting:
        fields["waiting"] = candidate.waiting
    if candidate.breaker_open and candidate.eligible:
        fields["breaker_open"] = True
    return fields
