"""Groups changed ledger parts into causes, using readings of engines and routers. Pure.

The parts add up to the change, and grouping keeps the sum. Readings of the same two windows separate causes that
look alike in the ledger.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from observability.why_ttft.circumstances import Circumstances
from observability.why_ttft.contributions import Contribution, Window, words
from observability.why_ttft.spells import spell_words
from platform_contracts.backend_states import NOT_WORKING
from platform_contracts.ledger_parts import parts_of

Name = Literal[
    "event_loop_blocked",  # the router's timers ran late, which delays every part that needs the router
    "engine_stuck",  # attempts failed at an engine that produced nothing
    "waiting_for_start",  # requests waited for the first engine of a pool to start
    "failed_attempts",  # attempts failed before one succeeded
    "kv_cache_full",  # an engine preempts, or queues requests because its KV cache is full
    "slow_engine",  # an engine is slower than before and computes no more tokens
    "engine_queue",
    "longer_prompts",
    "affinity_lost",  # sessions moved away from the backend that caches their prefix
    "cache_lost_by_routing",  # prompts went to backends without their prefix, while another backend had cached it
    "cache_evicted",  # an engine has lost prefixes that it computed before
    "other_prompts",  # more prompts have a prefix that no backend has cached
    "thinking_longer",  # more time between the first token and the first token of the answer
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
"""Every cause."""

LATE_SECONDS = 0.005
"""The router is late if its timers run this much later than before and at least twice as late."""

SLOWER = 1.5
"""An engine is slower if a token takes this many times as long as before..."""

MORE_WORK = 1.25
"""...unless it computed over this many times as many tokens a second: then it is loaded, not slow."""

LONGER = 1.2
"""Prompts are longer if they have this many times as many tokens, also within one prompt size class."""

KV_FULL = 0.9
"""KV cache usage at which an engine may be unable to accept a request, even if it does not preempt."""

EVICTED = 0.8
"""An engine has evicted prefixes if it finds less than this share of the cached tokens that it found before..."""

CACHED_TOKENS = 16.0
"""...of at least this many tokens per request: one block of vLLM."""

NOTABLE = 0.2
"""Share of a cause from which its text names a backend."""

_WAITS_FOR_ROUTER = frozenset({"edge", "router", "connect", "relay", "unexplained"})
_ENGINE_PARTS = parts_of("engine") - {"earlier_attempts", "waiting_for_start"}
_BY_PREFIX: dict[str, Name] = {
    "prefix_kept": "cache_lost_by_routing",
    "prefix_moved": "cache_lost_by_routing",
    "prefix_new": "other_prompts",
}
"""Cause of a changed affinity mix, by the state that gained requests. All other states concern sessions."""

_MIX: dict[str, Name] = {
    "prompt_bucket": "longer_prompts",
    "rule": "other_rules",
    "backend": "other_backends",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause: ``seconds`` of the change, the ``backend`` with the largest share of it, and its text in ``words``."""

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

    ``windows`` and ``circumstances`` are (before, after). ``parts`` is the result of
    :func:`observability.why_ttft.contributions.parts_by_backend` for these windows.
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
    if part.name == "affinity":
        return _BY_PREFIX.get(part.gained, "affinity_lost")
    if part.kind == "mix":
        return _MIX[part.name]
    if part.name in _WAITS_FOR_ROUTER and _router_is_late(circumstances):
        return "event_loop_blocked"
    if part.name == "earlier_attempts":
        return "engine_stuck" if _not_working(circumstances) else "failed_attempts"
    if part.name == "thinking":
        return "thinking_longer"
    if part.name in _ENGINE_PARTS:
        if _kv_cache_is_full(part.backend, circumstances):
            return "kv_cache_full"
        if _is_slower(part.backend, circumstances):
            return "slow_engine"
        if part.seconds > 0 and _has_evicted(circumstances):
            return "cache_evicted"
        if part.name == "prefill" and part.seconds > 0 and _has_longer_prompts(part.backend, circumstances):
            return "longer_prompts"
    return part.name  # type: ignore[return-value]


def _not_working(circumstances: tuple[Circumstances, Circumstances]) -> set[str]:
    """Return backends whose agents reported a state without work in the later window."""
    _, after = circumstances
    return {backend for backend, readings in after.engines.items() if readings.states.keys() & NOT_WORKING}


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


def _has_evicted(circumstances: tuple[Circumstances, Circumstances]) -> bool:
    """Return whether prompts that their backend had served before are cached less, beyond the growth of prompts."""
    before, after = circumstances
    if None in (before.expected_cached, after.expected_cached):
        return False
    was, now = before.expected_cached or 0.0, after.expected_cached or 0.0
    longer = (after.expected_tokens or 0.0) - (before.expected_tokens or 0.0)
    return was >= CACHED_TOKENS and now < EVICTED * was and was - now > longer


def _has_longer_prompts(backend: str, circumstances: tuple[Circumstances, Circumstances]) -> bool:
    """Return whether prompts grew within their size class. A shift between classes counts as mix."""
    before, after = (one.engine(backend).prompt_tokens_per_request for one in circumstances)
    return bool(before and after and after >= LONGER * before)


def _where(
    name: Name, members: Sequence[Contribution], circumstances: tuple[Circumstances, Circumstances]
) -> list[str]:
    """Return the backends of a cause, largest share first. For failed attempts, these are the backends that failed."""
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
        return f"the router's event loop was blocked (timers ran {lag:.0f} ms late on average)"
    if name == "engine_stuck":
        state = " and ".join(
            f"{one} {spell_words(new.states[one], 'about ')}"
            for one in sorted(new.states.keys() & NOT_WORKING)
        )
        return f"{backend} was {state}: {new.failed_attempts:.0f} attempts failed there"
    if name == "failed_attempts":
        return f"failed attempts ({backend}: {new.failed_attempts:.0f})" if backend else "failed attempts"
    if name == "kv_cache_full":
        preempted = sum(after.engine(one).preemptions for one in where)
        return f"KV cache full on {', '.join(where)} ({preempted:.0f} preemptions)"
    if name == "slow_engine":
        ratio = (new.token_seconds or 0.0) / (old.token_seconds or 1.0)
        throttled = new.states.get("throttled")
        state = f"throttled {spell_words(throttled, 'about ')}, " if throttled else ""
        return f"{' and '.join(where)} slower ({state}{ratio:.1f} times as long per token)"
    if name == "affinity_lost" and seconds > 0:
        kept = [_kept_share(window, "kept", "placed", "broken") for window in windows]
        store = after.affinity_store_down
        down = f", the affinity store was down {spell_words(store)}" if store else ""
        return f"affinity hits {100 * kept[0]:.0f} -> {100 * kept[1]:.0f} %{down}"
    if name == "cache_lost_by_routing" and seconds > 0:
        kept = [_kept_share(window, "prefix_kept", "prefix_moved") for window in windows]
        return (
            f"routing lost the cache (prefixes on their backend {100 * kept[0]:.0f} -> {100 * kept[1]:.0f} %)"
        )
    if name == "cache_evicted":
        return f"cache evicted on {' and '.join(where)} ({_cached(before)} -> {_cached(after)} prompt tokens cached)"
    if name == "other_prompts":
        return "more prompts with a new beginning" if seconds > 0 else "fewer prompts with a new beginning"
    if name == "thinking_longer" and seconds > 0:
        return _thinking_words(circumstances)
    if name == "longer_prompts" and seconds > 0:
        return "longer prompts"
    by_backend = {one: sum(part.seconds for part in members if part.backend == one) for one in where}
    at = [one for one in where if abs(by_backend[one]) >= NOTABLE * abs(seconds)]
    return words(Contribution(members[0].name, members[0].kind, seconds, ", ".join(at)))


def _kept_share(window: Window, kept: str, *others: str) -> float:
    """Return the share of requests in the affinity state ``kept`` among those in it or in one of ``others``."""
    by_state: dict[str, float] = defaultdict(float)
    for cell, count in window.counts.items():
        by_state[cell[2]] += count
    every = sum(by_state[state] for state in (kept, *others))
    return by_state[kept] / every if every else 0.0


def _cached(readings: Circumstances) -> str:
    return f"{readings.expected_cached or 0.0:.0f} of {readings.expected_tokens or 0.0:.0f}"


def _thinking_words(circumstances: tuple[Circumstances, Circumstances]) -> str:
    """Return the words of longer thinking, with the engines' counts if they explain it."""
    old, new = (one.reasoning_tokens_per_request for one in circumstances)
    if old is not None and new and new >= LONGER * old:
        return f"thinking got longer ({old:.0f} -> {new:.0f} tokens per request)"
    return "thinking took longer"
