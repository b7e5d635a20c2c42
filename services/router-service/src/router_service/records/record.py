"""The decision record: one per request, including refused and failed ones. Holds no prompt, answer, key or raw
session id.

The pipeline fills the slots while the request runs; text is produced only for a reader.
"""

from dataclasses import dataclass
from math import floor, fsum
from operator import itemgetter
from typing import Any, Final

from platform_contracts.log_lines import timestamp
from router_service.routing.considered import BEST_KEPT, REJECTED_KEPT
from router_service.routing.decision import Decision, Seen
from router_service.routing.features import Features
from router_service.routing.vocabulary import Outcome, RejectedBecause, Verdict

LOGGED_BEST = BEST_KEPT
"""Number of eligible candidates in the log line, in addition to the chosen and the rejected candidates."""

LEDGER_PARTS = (
    "edge",
    "waiting_for_start",
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
"""Parts of the time to first token. `first_byte_wait` replaces both engine parts if the engine does not report them.
`earlier_attempts` is present if attempts failed before the answering one, `waiting_for_start` if no engine was ready.
"""


@dataclass(slots=True)
class AttemptRecord:
    """One call to a backend. Times in milliseconds; ``outcome`` is a value of the pipeline's `End`."""

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


Considered = tuple[Seen, RejectedBecause | None, float | None]
"""One backend of a decision, why it was rejected, and its score if it was not. Most decisions are only logged, so that
these are not made :class:`Candidate` objects."""

_SCORE = itemgetter(2)

_NAME: Final = 0
_POOL: Final = 1
_IN_FLIGHT: Final = 2
_RAMP: Final = 4


class DecisionRecord:
    """All fields of one request. ``started_at`` is epoch seconds. ``shadow`` is about its copy, None if no shadow takes it;
    ``shadow_of`` is the id of the request that it is a copy of, "" for requests.
    """

    __slots__ = (
        "attempts",
        "client_id",
        "config_hash",
        "decide_ms",
        "decision",
        "decode_ms",
        "detail",
        "edge_attempt",
        "edge_skewed",
        "features",
        "first_answer_ms",
        "first_decision",
        "first_token_ms",
        "held_ms",
        "ledger",
        "outcome",
        "path",
        "prefix_state",
        "queue_position",
        "replica",
        "request_id",
        "shadow",
        "shadow_of",
        "started_at",
        "status",
        "tokens_cached",
        "tokens_completion",
        "tokens_prompt",
        "tokens_reasoning",
        "total_ms",
        "trace_id",
        "verdict",
        "went_ahead",
    )

    def __init__(self, request_id: str, path: str, started_at: float, config_hash: str) -> None:
        self.request_id = request_id
        self.path = path
        self.started_at = started_at
        self.config_hash = config_hash
        self.replica = ""
        self.client_id = ""
        self.trace_id = ""
        self.features: Features | None = None
        self.decision: Decision | None = None
        self.first_decision: Decision | None = None
        self.queue_position: int | None = None
        self.held_ms = 0.0
        self.went_ahead: dict[str, int] = {}
        self.attempts: list[AttemptRecord] = []
        self.ledger: dict[str, float | None] = {}
        self.edge_attempt = 1
        self.edge_skewed = False
        self.decide_ms: float | None = None
        self.first_token_ms: float | None = None
        self.first_answer_ms: float | None = None
        self.decode_ms: float | None = None
        self.total_ms: float | None = None
        self.prefix_state = ""
        self.tokens_prompt: int | None = None
        self.tokens_completion: int | None = None
        self.tokens_cached: int | None = None
        self.tokens_reasoning: int | None = None
        self.status = 0
        self.outcome: Outcome | None = None
        self.verdict = Verdict.NONE
        self.detail = ""
        self.shadow: dict[str, Any] | None = None
        self.shadow_of = ""

    def decided(self, decision: Decision) -> None:
        """Store a decision. ``rule``, ``candidates`` and replay use the first one. A later one (a retry) only changes
        the destination of the request.
        """
        if self.first_decision is None:
            self.first_decision = decision
        self.decision = decision

    @property
    def shortened(self) -> bool:
        """Whether the log line omits candidates of the decision."""
        first = self.first_decision
        return first is not None and first.left_out is None and len(first.eligible) > LOGGED_BEST

    def as_dict(self, *, whole: bool = False) -> dict[str, Any]:
        """Return the record as JSON-ready data.

        The log line (``whole`` false) keeps the chosen candidate, the best :data:`LOGGED_BEST` and up to
        `REJECTED_KEPT` rejected ones of each pool and reason, with counts of all.
        """
        features = self.features
        fields: dict[str, Any] = {
            "request_id": self.request_id,
            "time": timestamp(self.started_at),
            "client_id": self.client_id,
            "replica": self.replica,
            "config_hash": self.config_hash,
            "path": self.path,
            "model": features.model if features else "",
            "stream": features.stream if features else False,
            "features": features.recorded() if features else {},
            "conditions": dict(features.truths) if features else {},
            **self._decided_fields(whole),
            "queue_position": self.queue_position,
            "attempts": [attempt.as_dict() for attempt in self.attempts],
            "ttft_ledger_ms": {part: _ms(value) for part, value in self.ledger.items()},
            "decide_ms": _ms(self.decide_ms),
            "first_token_ms": _ms(self.first_token_ms),
            "first_answer_ms": _ms(self.first_answer_ms),
            "decode_ms": _ms(self.decode_ms),
            "total_ms": _ms(self.total_ms),
            "tokens": {
                "prompt": self.tokens_prompt,
                "completion": self.tokens_completion,
                "cached": self.tokens_cached,
                "reasoning": self.tokens_reasoning,
            },
            "status": self.status,
            "outcome": self.outcome,
            "verdict": self.verdict,
        }
        if self.decision is not None and self.decision.class_name:
            fields["class"] = self.decision.class_name
        if self.shadow is not None:
            fields["shadow"] = self.shadow
        if self.shadow_of:
            fields["shadow_of"] = self.shadow_of
        if self.held_ms:
            fields["held_ms"] = _ms(self.held_ms)
        if self.went_ahead:
            fields["went_ahead"] = self.went_ahead
        if self.trace_id:
            fields["trace_id"] = self.trace_id
        if self.edge_attempt > 1:
            fields["edge_attempt"] = self.edge_attempt
        if self.edge_skewed:
            fields["edge_skewed"] = True
        if self.detail:
            fields["detail"] = self.detail
        return fields

    def _decided_fields(self, whole: bool) -> dict[str, Any]:
        """Return the rule, the candidates and the choice of the first decision, and the final destination."""
        first, decision = self.first_decision, self.decision
        if first is None or decision is None:
            return {"rule": None, "pool": None, "reason": "none_available", "candidates": [], "chosen": None}
        candidates, cut = (_considered(first), []) if whole else _worth_logging(first)
        rejected = _rejected(first) if first.rejected or first.hidden else None
        unnamed = sum(sum(counts.values()) for counts in first.hidden.values()) if first.hidden else 0
        unnamed += first.left_out.count if first.left_out is not None else 0
        share = decision.rule.rollout if decision.rule is not None else None
        affinity = {
            "state": first.affinity,
            "source": self.features.session_source if self.features else "",
        }
        if self.prefix_state:
            affinity["prefix"] = self.prefix_state
        return {
            "rule": decision.rule_name,
            **({"rollout": {"to": share.to, "percent": share.percent}} if share is not None else {}),
            "passed_over": first.passed_over,
            "first_pool": first.first_pool,
            "pool": decision.pool,
            "policy": decision.policy,
            "reason": decision.reason,
            "candidates": [_candidate(*one) for one in candidates],
            "candidates_total": len(first.rejected) + len(first.eligible) + unnamed,
            **({"rejected": rejected} if rejected else {}),
            "snapshot": _snapshot(first, cut),
            "affinity": affinity,
            "chosen": decision.chosen.name if decision.chosen is not None else None,
        }


def _snapshot(first: Decision, cut: list[Seen]) -> dict[str, Any]:
    """Return the decision's other inputs, and for eligible backends that are not named the sums that policies weigh."""
    fields: dict[str, Any] = {"round_robin": first.round_robin, "pin": first.pin}
    if first.home:
        fields["home"] = first.home
    unnamed = first.left_out
    if cut or unnamed is not None:
        fields["left_out"] = {
            "pool": cut[0][_POOL] if cut else first.pool,  # eligible ones are all of one pool
            "count": len(cut) + (unnamed.count if unnamed is not None else 0),
            "in_flight": sum(s[_IN_FLIGHT] for s in cut) + (unnamed.in_flight if unnamed is not None else 0),
            "capacity": fsum([*(s[_RAMP] for s in cut), unnamed.capacity if unnamed is not None else 0.0]),
        }
    return fields


def _rejected(first: Decision) -> dict[str, dict[str, int]]:
    """Return how many backends were rejected, by pool and reason, named or not."""
    found: dict[str, dict[str, int]] = {}
    for seen, reason in first.rejected:
        counts = found.setdefault(seen[_POOL], {})
        counts[reason.value] = counts.get(reason.value, 0) + 1  # orjson takes no enum as a key
    for pool, hidden in (first.hidden or {}).items():
        counts = found.setdefault(pool, {})
        for reason, count in hidden.items():
            counts[reason.value] = counts.get(reason.value, 0) + count
    return found


def _ms(value: float | None) -> float | None:
    return None if value is None else floor(value * 1e3 + 0.5) / 1e3  # A third of the time of `round`.


def _considered(decision: Decision) -> list[Considered]:
    """Return every backend that the decision names, the rejected ones first."""
    rejected: list[Considered] = [(seen, because, None) for seen, because in decision.rejected]
    return rejected + [
        (seen, None, score) for seen, score in zip(decision.eligible, decision.scores, strict=True)
    ]


def _worth_logging(decision: Decision) -> tuple[list[Considered], list[Seen]]:
    """Return the backends that a log line names, and the eligible ones that it only counts.

    Eligible backends are sorted by score; replay takes turns in this order.
    """
    rejected: list[Considered] = []
    named: dict[tuple[str, RejectedBecause], int] = {}
    for seen, because in decision.rejected:
        count = named[seen[_POOL], because] = named.get((seen[_POOL], because), 0) + 1
        if count <= REJECTED_KEPT:
            rejected.append((seen, because, None))
    scored = zip(decision.eligible, decision.scores, strict=True)
    eligible: list[Considered] = sorted([(seen, None, score) for seen, score in scored], key=_SCORE)
    if len(eligible) <= LOGGED_BEST:
        return rejected + eligible, []
    chosen = decision.chosen.name if decision.chosen is not None else ""
    best = eligible[:LOGGED_BEST]
    others = eligible[LOGGED_BEST:]
    kept = rejected + best + [one for one in others if one[0][_NAME] == chosen]
    return kept, [seen for seen, _, _ in others if seen[_NAME] != chosen]


def _candidate(seen: Seen, because: RejectedBecause | None, score: float | None) -> dict[str, Any]:
    """Return only the fields that differ from an unloaded, healthy, unlimited backend, to keep the line short."""
    name, pool, in_flight, limit, ramp, waiting, _, breaker_open = seen
    fields: dict[str, Any] = {
        "backend": name,
        "pool": pool,
        "eligible": because is None,
        "rejected_because": because,
        "in_flight": in_flight,
        "limit": limit,
        "score": None if score is None else floor(score * 1e6 + 0.5) / 1e6,
    }
    if ramp != 1.0:
        fields["ramp"] = ramp
    if waiting:
        fields["waiting"] = waiting
    if breaker_open and because is None:
        fields["breaker_open"] = True
    return fields
