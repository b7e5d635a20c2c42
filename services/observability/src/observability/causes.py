"""From parts that changed to causes: which parts belong together, and what the engines and routers say about them.

The parts come from the ledger and add up to the change; putting them together keeps the sum. Readings of the same
two windows decide between causes that look alike in the ledger. Pure.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from observability.circumstances import Circumstances
from observability.contributions import Contribution, Window, words

Name = Literal[
    "event_loop_blocked",  # the router ran late: everything that waits for it grew
    "engine_stuck",  # attempts ended at an engine that gave nothing
    "failed_attempts",  # attempts failed before one succeeded
    "kv_cache_full",  # an engine preempts, or lets requests wait beside a full KV cache
    "slow_engine",  # an engine is slower than it was, at no more work
    "engine_queue",
    "longer_prompts",
    "affinity_lost",  # sessions were served away from the backend that knows their prefix
    "other_rules",
    "other_backends",
    "edge",
    "router_queue",
    "router",
    "connect",
    "network",
    "prefill",
    "first_byte_wait",
    "relay",
    "unexplained",
]
"""Every cause. The eight that docs/bottlenecks.md describes are told apart by their circumstances."""

LATE_SECONDS = 0.005
"""Timers that run this much later than before, and twice as late, make the router late."""

SLOWER = 1.5
"""A token that takes this many times as long as before makes an engine slower..."""

MORE_WORK = 1.25
"""...unless it computed this many times as many tokens a second: then it is loaded, not slow."""

LONGER = 1.2
"""Prompts with this many times as many tokens are longer, also within one class of sizes."""

KV_FULL = 0.9
"""An engine whose KV cache was this full has no place for a further request, though it may not have to preempt."""

NOTABLE = 0.2
"""Backends with this share of a cause are named in its words."""

NOT_WORKING = frozenset({"stuck", "unreachable"})

_WAITS_FOR_ROUTER = frozenset({"edge", "router", "connect", "relay", "unexplained"})
_ENGINE_PARTS = frozenset({"engine_queue", "prefill", "first_byte_wait"})
_MIX: dict[str, Name] = {
    "prompt_bucket": "longer_prompts",
    "affinity": "affinity_lost",
    "rule": "other_rules",
    "backend": "other_backends",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause: ``seconds`` of the change, the ``backend`` it happened at (or most of it), in ``words``."""

    name: Name
    seconds: float
    backend: str
    words: str
    parts: tuple[Contribution, ...]


def causes(
    parts: Sequence[Contribution],
    windows: tuple[Window, Window],
    circumstances: tuple[Circumstances, Circumstances],
) -> list[Cause]:
    """Return the causes, largest first; their seconds add up to those of ``parts``.

    ``windows`` and ``circumstances`` are (before, after); ``parts`` is what
    :func:`observability.contributions.parts_by_backend` found between the windows.
    """
    groups: dict[Name, list[Contribution]] = defaultdict(list)
    for part in parts:
        name = _name(part, circumstances)
        groups[name].append(part)
    found = []
    for name, members in groups.items():
        seconds = sum(part.seconds for part in members)
        where = _where(name, members, circumstances)
        told = _words(name, where, members, seconds, windows, circumstances)
        found.append(Cause(name, seconds, where[0], told, tuple(members)))
    return sorted(found, key=lambda cause: -abs(cause.seconds))


def _name(part: Contribution, circumstances: tuple[Circumstances, Circumstances]) -> Name:
    if part.kind == "mix":
        return _MIX[part.name]
    if part.name in _WAITS_FOR_ROUTER and _router_is_late(circumstances):
        return "event_loop_blocked"
    if part.name == "earlier_attempts":
        return "engine_stuck" if _not_working(circumstances) else "failed_attempts"
    if part.name in _ENGINE_PARTS:
        if _kv_cache_is_full(part.backend, circumstances):
            return "kv_cache_full"
        if _is_slower(part.backend, circumstances):
            return "slow_engine"
        if part.name == "prefill" and part.seconds > 0 and _has_longer_prompts(part.backend, circumstances):
            return "longer_prompts"
    return part.name  # type: ignore[return-value]


def _not_working(circumstances: tuple[Circumstances, Circumstances]) -> set[str]:
    """Backends whose agents said so in the later window."""
    _, after = circumstances
    return {backend for backend, readings in after.engines.items() if readings.states & NOT_WORKING}


def _router_is_late(circumstances: tuple[Circumstances, Circumstances]) -> bool:
    before, after = circumstances
    lag = after.loop_lag_seconds
    return lag > before.loop_lag_seconds + LATE_SECONDS and lag > 2 * before.loop_lag_seconds


def _kv_cache_is_full(backend: str, circumstances: tuple[Circumstances, Circumstances]) -> bool:
    before, after = (one.engine(backend) for one in circumstances)
    filled = after.kv_usage >= KV_FULL > before.kv_usage
    return filled or after.preemptions > before.preemptions


def _is_slower(backend: str, circumstances: tuple[Circumstances, Circumstances]) -> bool:
    before, after = (one.engine(backend) for one in circumstances)
    if not before.token_seconds or not after.token_seconds:
        return False
    slower = after.token_seconds >= SLOWER * before.token_seconds
    return slower and after.tokens_per_second <= MORE_WORK * before.tokens_per_second


def _has_longer_prompts(backend: str, circumstances: tuple[Circumstances, Circumstances]) -> bool:
    """Within one class of sizes; the classes themselves are mix."""
    before, after = (one.engine(backend).prompt_tokens_per_request for one in circumstances)
    return bool(before and after and after >= LONGER * before)


def _where(
    name: Name, members: Sequence[Contribution], circumstances: tuple[Circumstances, Circumstances]
) -> list[str]:
    """The backends a cause happened at, the most of it first: for failed attempts not those that answered in the end."""
    before, after = circumstances
    if name in ("engine_stuck", "failed_attempts"):
        asked = _not_working(circumstances) if name == "engine_stuck" else after.engines
        failed = {
            one: after.engine(one).failed_attempts - before.engine(one).failed_attempts for one in asked
        }
        return sorted(failed, key=lambda one: -failed[one]) or [""]
    by_backend: dict[str, float] = defaultdict(float)
    for part in members:
        by_backend[part.backend] += part.seconds
    return sorted(by_backend, key=lambda backend: -abs(by_backend[backend]))


def _words(
    name: Name,
    where: Sequence[str],
    members: Sequence[Contribution],
    seconds: float,
    windows: tuple[Window, Window],
    circumstances: tuple[Circumstances, Circumstances],
) -> str:
    before, after = circumstances
    backend = where[0]
    old, new = before.engine(backend), after.engine(backend)
    if name == "event_loop_blocked":
        lag = after.loop_lag_seconds * 1e3
        return f"the router runs late (its timers {lag:.0f} ms on average)"
    if name == "engine_stuck":
        state = ", ".join(sorted(new.states & NOT_WORKING))
        return f"{backend} is {state}: {new.failed_attempts:.0f} attempts there brought nothing"
    if name == "failed_attempts":
        return f"failed attempts ({backend}: {new.failed_attempts:.0f})" if backend else "failed attempts"
    if name == "kv_cache_full":
        preempted = sum(after.engine(one).preemptions for one in where)
        return f"KV cache full on {', '.join(where)} ({preempted:.0f} preemptions)"
    if name == "slow_engine":
        ratio = (new.token_seconds or 0.0) / (old.token_seconds or 1.0)
        state = "throttled, " if "throttled" in new.states else ""
        return f"{' and '.join(where)} slower ({state}a token takes {ratio:.1f} times as long)"
    if name == "affinity_lost" and seconds > 0:
        kept = [_kept_share(window) for window in windows]
        down = ", the store of pins is down" if after.affinity_store_down else ""
        return f"affinity hits {100 * kept[0]:.0f} -> {100 * kept[1]:.0f} %{down}"
    if name == "longer_prompts" and seconds > 0:
        return "longer prompts"
    by_backend = {one: sum(part.seconds for part in members if part.backend == one) for one in where}
    at = [one for one in where if abs(by_backend[one]) >= NOTABLE * abs(seconds)]
    return words(Contribution(members[0].name, members[0].kind, seconds, ", ".join(at)))


def _kept_share(window: Window) -> float:
    """Share of a window's requests with a session that their pinned backend took."""
    by_state: dict[str, float] = defaultdict(float)
    for cell, count in window.counts.items():
        by_state[cell[2]] += count
    of_sessions = sum(count for state, count in by_state.items() if state not in ("", "off"))
    return by_state["kept"] / of_sessions if of_sessions else 0.0
