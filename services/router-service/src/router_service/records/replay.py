"""Recorded requests decided again, by the rules of today or tomorrow. Reads records, asks nobody."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from router_service.routing.conditions import CannotTell
from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.features import Features
from router_service.routing.policy import Policy
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.vocabulary import RejectedBecause


class NotARecord(ValueError):
    """A line that is no decision record."""


def features_of(record: Mapping[str, Any]) -> Features:
    """Rebuild what the rules saw, as far as the record keeps it."""
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
        prefix=kept.get("prefix", ""),
        headers=None,
        user_text=None,
        truths=dict(record.get("conditions", {})),
    )


def snapshot_of(record: Mapping[str, Any]) -> Snapshot:
    """Rebuild the backends that were considered, as they were.

    Pools that were not considered are not in a record; a policy that asks them finds them empty.
    """
    kept = record.get("snapshot", {})
    left_out = kept.get("left_out") or {}
    pools: dict[str, PoolView] = {}
    for candidate in record["candidates"]:
        name = candidate["pool"]
        pool = pools.setdefault(name, PoolView(name, round_robin=kept.get("round_robin", {}).get(name, 0)))
        if left_out.get("pool") == name:
            # The line has the best ones in the order of their scores, which stands for their turns.
            pool.round_robin = 0
            pool.unseen = left_out["count"]
            pool.unseen_in_flight = left_out["in_flight"]
            pool.unseen_capacity = left_out["capacity"]
        rejected = candidate["rejected_because"]
        because = RejectedBecause(rejected) if rejected else None
        live = (
            *(RejectedBecause.AT_LIMIT, RejectedBecause.BREAKER_OPEN, RejectedBecause.ALREADY_TRIED),
            RejectedBecause.MODEL_NOT_SERVED,  # its health was not asked; another configuration may ask it
        )
        pool.backends.append(
            BackendView(
                name=candidate["backend"],
                pool=name,
                url="",
                in_flight=candidate["in_flight"],
                limit=candidate["limit"],
                unusable=None if because in live else because,
                breaker_open=because is RejectedBecause.BREAKER_OPEN or candidate.get("breaker_open", False),
                ramp=candidate.get("ramp", 1.0),
                waiting=candidate.get("waiting", 0.0),
            )
        )
    return Snapshot(pools=pools, pin=kept.get("pin", ""))


def decide_again(record: Mapping[str, Any], policy: Policy) -> Decision:
    """Decide a recorded request by ``policy``.

    Raises:
        NotARecord: fields are missing or not what they should be.
        CannotTell: a rule looks at text or headers that the record has no truth value for.
    """
    try:
        at = datetime.fromisoformat(record["time"]).timestamp()
        features, snapshot = features_of(record), snapshot_of(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotARecord(str(error)) from error
    return decide(features, snapshot, policy, at)


@dataclass
class Replay:
    """What would go elsewhere. ``moves`` counts (pool, rule) before -> after; ``examples`` has ids of each."""

    total: int = 0
    same: int = 0
    cannot_tell: int = 0
    ignored_lines: int = 0
    moves: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str, str, str], list[str]] = field(default_factory=dict)

    @property
    def different(self) -> int:
        """Requests that would go elsewhere, or by another rule."""
        return sum(self.moves.values())


def replay(records: Iterable[Mapping[str, Any] | None], policy: Policy, examples: int = 3) -> Replay:
    """Decide every record again and compare pool and rule; None stands for a line that is no record."""
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
        # Where the rules sent it: a retry or a fallback is the backends' doing, not the rules'.
        before = record.get("first_pool") or record["pool"]
        move = (before, record["rule"], decision.first_pool, decision.rule_name)
        if move[:2] == move[2:]:
            result.same += 1
            continue
        result.moves[move] += 1
        found = result.examples.setdefault(move, [])
        if len(found) < examples:
            found.append(record["request_id"])
    return result


def as_text(result: Replay) -> str:
    """Return the comparison for people."""
    lines = [
        f"{result.total} requests: {result.same} as before, {result.different} different, "
        f"{result.cannot_tell} cannot be told (a rule looks at text or headers that were not recorded)"
    ]
    if result.ignored_lines:
        lines.append(f"{result.ignored_lines} lines were not decision records and are left out")
    for (pool, rule, new_pool, new_rule), count in result.moves.most_common():
        example = ", ".join(result.examples[(pool, rule, new_pool, new_rule)])
        lines.append(
            f"{count:>8}  {pool or 'nowhere'} (rule {rule}) -> {new_pool or 'nowhere'} (rule {new_rule})   e.g. {example}"
        )
    return "\n".join(lines)
