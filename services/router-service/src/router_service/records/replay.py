"""Decides recorded requests again, by any rules. Reads only records, no live state."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from router_service.routing.conditions import CannotTell
from router_service.routing.considered import HEALTHY
from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.features import Features
from router_service.routing.policy import Policy
from router_service.routing.shadowing import not_copied, shadow_of
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.vocabulary import REFUSALS, RejectedBecause

REFUSED = "(refused)"
"""Replaces the pool's name for a request that a rule or a list of models refuses."""


class NotARecord(ValueError):
    """The line is not a decision record."""


def features_of(record: Mapping[str, Any]) -> Features:
    """Rebuild the features that the rules saw, as far as the record has them."""
    kept = record["features"]
    return Features(
        path=record["path"],
        model=record["model"],
        stream=record["stream"],
        max_tokens=kept.get("max_tokens"),
        prompt_chars=kept.get("prompt_chars", 0),
        messages=kept.get("messages", 0),
        has_tools=kept.get("has_tools", False),
        has_images=kept.get("has_images", False),
        client_id=record.get("client_id", ""),
        request_id=record["request_id"],
        session=kept.get("session", ""),
        service_tier=kept.get("service_tier", ""),
        prefix=kept.get("prefix", ""),
        headers=None,
        user_text=None,
        truths=dict(record.get("conditions", {})),
    )


def snapshot_of(record: Mapping[str, Any]) -> Snapshot:
    """Rebuild the considered backends in their recorded state.

    A record does not have pools that were not considered; policies see them as empty.
    """
    kept = record.get("snapshot", {})
    pools: dict[str, PoolView] = {}
    # Sorts eligible candidates by score, which stands for their turns.
    for candidate in sorted(record["candidates"], key=lambda c: (c["eligible"], c["score"] or 0.0)):
        pool = pools.setdefault(candidate["pool"], PoolView(candidate["pool"]))
        if not candidate["eligible"]:
            pool.round_robin += 1
        pool.backends.append(_backend(candidate))
    left_out = kept.get("left_out")
    if left_out and left_out["pool"] in pools:
        pool = pools[left_out["pool"]]
        pool.unseen = left_out["count"]
        pool.unseen_in_flight = left_out["in_flight"]
        pool.unseen_capacity = left_out["capacity"]
    for name, counts in record.get("rejected", {}).items():
        if name in pools:
            _count_unnamed(pools[name], counts, record["candidates"])
    return Snapshot(pools=pools, pin=kept.get("pin", ""), home=kept.get("home", ""))


def _backend(candidate: Mapping[str, Any]) -> BackendView:
    rejected = candidate["rejected_because"]
    because = RejectedBecause(rejected) if rejected else None
    live = (
        *(RejectedBecause.AT_LIMIT, RejectedBecause.BREAKER_OPEN, RejectedBecause.ALREADY_TRIED),
        RejectedBecause.MODEL_NOT_SERVED,  # its health was not read; another configuration may read it
    )
    return BackendView(
        name=candidate["backend"],
        pool=candidate["pool"],
        url="",
        in_flight=candidate["in_flight"],
        limit=candidate["limit"],
        unusable=None if because in live else because,
        breaker_open=because is RejectedBecause.BREAKER_OPEN or candidate.get("breaker_open", False),
        ramp=candidate.get("ramp", 1.0),
        waiting=candidate.get("waiting", 0.0),
    )


def _count_unnamed(
    pool: PoolView, counts: Mapping[str, int], candidates: Sequence[Mapping[str, Any]]
) -> None:
    """Add the rejected backends of ``pool`` that the record counts and does not name."""
    for because, count in counts.items():
        named = sum(c["pool"] == pool.name and c["rejected_because"] == because for c in candidates)
        pool.unseen += count - named
        if because == RejectedBecause.BREAKER_OPEN:
            pool.unseen_ejected += count - named
        elif because not in HEALTHY:
            pool.unseen_unusable += count - named


def decide_again(record: Mapping[str, Any], policy: Policy) -> Decision:
    """Decide a recorded request by ``policy``.

    Raises:
        NotARecord: fields are missing or invalid.
        CannotTell: a rule tests text or headers, and the record has no result for that condition.
    """
    try:
        at = datetime.fromisoformat(record["time"]).timestamp()
        features, snapshot = features_of(record), snapshot_of(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotARecord(str(error)) from error
    return decide(features, snapshot, policy, at)


@dataclass
class Replay:
    """Result of a comparison. ``moves`` counts (pool, rule) before -> after; ``examples`` has request ids of each
    move.

    The pool of a refused request is :data:`REFUSED`. ``newly_refused`` counts by client the requests that were not
    refused before. ``copies`` counts by shadow pool the requests that a shadow takes, as far as records can tell.
    """

    total: int = 0
    same: int = 0
    cannot_tell: int = 0
    ignored_lines: int = 0
    copies: Counter[str] = field(default_factory=Counter)
    moves: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str, str, str], list[str]] = field(default_factory=dict)
    newly_refused: Counter[str] = field(default_factory=Counter)

    @property
    def different(self) -> int:
        """Requests whose pool or rule would change."""
        return sum(self.moves.values())


def replay(records: Iterable[Mapping[str, Any] | None], policy: Policy, examples: int = 3) -> Replay:
    """Decide every record again and compare pool and rule; None stands for a line that is not a record."""
    result = Replay()
    for record in records:
        if record is None or "candidates" not in record or record.get("pool") is None:
            result.ignored_lines += 1
            continue
        try:
            decision = decide_again(record, policy)
        except NotARecord:
            result.ignored_lines += 1
            continue
        except CannotTell:
            result.total += 1
            result.cannot_tell += 1
            continue
        result.total += 1
        shadow = shadow_of(decision, record["request_id"])
        if (
            shadow is not None
            and not_copied(shadow, decision, record["model"], policy, stateful=False) is None
        ):
            result.copies[shadow.pool] += 1
        # Compare with the pool that the rules chose: retries and fallbacks depend on backends, not on rules.
        before = REFUSED if record["reason"] in REFUSALS else record.get("first_pool") or record["pool"]
        after = REFUSED if decision.reason in REFUSALS else decision.first_pool
        move = (before, record["rule"], after, decision.rule_name)
        if move[:2] == move[2:]:
            result.same += 1
            continue
        result.moves[move] += 1
        if after == REFUSED != before:
            result.newly_refused[record.get("client_id") or "(no client)"] += 1
        found = result.examples.setdefault(move, [])
        if len(found) < examples:
            found.append(record["request_id"])
    return result


def as_text(result: Replay) -> str:
    """Return the comparison for people."""
    lines = [
        f"{result.total} requests: {result.same} as before, {result.different} different, "
        f"{result.cannot_tell} undecidable (a rule tests text or headers that were not recorded)"
    ]
    if result.ignored_lines:
        lines.append(f"{result.ignored_lines} lines are not decision records and were ignored")
    for (pool, rule, new_pool, new_rule), count in result.moves.most_common():
        example = ", ".join(result.examples[(pool, rule, new_pool, new_rule)])
        lines.append(
            f"{count:>8}  {pool or 'nowhere'} (rule {rule}) -> {new_pool or 'nowhere'} (rule {new_rule})   e.g. {example}"
        )
    if result.newly_refused:
        by_client = ", ".join(f"{client} {count}" for client, count in result.newly_refused.most_common())
        lines.append(f"newly refused, by client: {by_client}")
    for pool, count in result.copies.most_common():
        lines.append(
            f"copied to the shadow pool {pool}: {count} of {result.total} requests, if its slots allow"
        )
    return "\n".join(lines)
