"""Parts that belong together become one cause, and what engines and routers said tells apart what looks alike."""

from typing import Any

import pytest

from observability.why_ttft.causes import Cause, causes
from observability.why_ttft.circumstances import Circumstances, EngineReadings
from observability.why_ttft.contributions import Window, parts_by_backend
from observability.why_ttft.report import as_json, sentence, table
from observability.why_ttft.spells import Spell

QUIET = Circumstances(
    engines={"a": EngineReadings(0.02, 100.0, 50.0), "b": EngineReadings(0.02, 100.0, 50.0)}
)
FAST = {"edge": 0.002, "router": 0.001, "engine_queue": 0.01, "prefill": 0.1, "unexplained": 0.001}


def window(*, affinity: str = "off", bucket: str = "0-500", more: dict[str, float] | None = None) -> Window:
    made = Window()
    cell = (bucket, "default", affinity)
    made.counts[cell] = 100
    parts = made.seconds[cell] = {}
    for backend in ("a", "b"):
        means = {**FAST, **((more or {}) if backend == "b" else {})}
        made.backends[backend] = (50, sum(means.values()) * 50)
        for component, mean in means.items():
            parts[component] = parts.get(component, 0.0) + mean * 50
    return made


def around(lag: float = 0.0, store_down: Spell | None = None, **of_b: Any) -> Circumstances:
    engine = EngineReadings(0.02, 100.0, 50.0)
    for name, value in of_b.items():
        setattr(engine, name, value)
    return Circumstances(lag, store_down, {"a": EngineReadings(0.02, 100.0, 50.0), "b": engine})


def found(before: Window, after: Window, now: Circumstances) -> list[Cause]:
    result = causes(parts_by_backend(before, after), (before, after), (QUIET, now))
    assert before.mean_seconds is not None
    assert after.mean_seconds is not None
    assert sum(c.seconds for c in result) == pytest.approx(after.mean_seconds - before.mean_seconds)
    return result


QUEUE = {"engine_queue": 0.61}

CASES: dict[str, tuple[Window, Circumstances, str, str, float]] = {
    "an engine's queue": (window(more=QUEUE), around(), "engine_queue", "b", 0.3),
    "more work makes tokens slower too": (
        window(more=QUEUE),
        around(token_seconds=0.05, tokens_per_second=300.0),
        "engine_queue",
        "b",
        0.3,
    ),
    "a queue because the engine is slower": (
        window(more={**QUEUE, "prefill": 0.3}),
        around(token_seconds=0.06, tokens_per_second=90.0),
        "slow_engine",
        "b",
        0.4,
    ),
    "a queue because the KV cache is full": (
        window(more=QUEUE),
        around(token_seconds=0.06, tokens_per_second=90.0, preemptions=7.0, kv_usage=1.0),
        "kv_cache_full",
        "b",
        0.3,
    ),
    "a queue beside a full KV cache, where nothing had to be preempted": (
        window(more=QUEUE),
        around(kv_usage=0.96),
        "kv_cache_full",
        "b",
        0.3,
    ),
    "a queue of a busy engine with KV cache left": (
        window(more=QUEUE),
        around(kv_usage=0.6),
        "engine_queue",
        "b",
        0.3,
    ),
    "a router that runs late": (
        window(more={"edge": 0.202, "unexplained": 0.201}),
        around(lag=0.08),
        "event_loop_blocked",
        "",
        0.2,
    ),
    "an edge that is late while the router is not": (
        window(more={"edge": 0.402}),
        around(),
        "edge",
        "",
        0.2,
    ),
    "attempts at a stuck engine": (
        window(more={"earlier_attempts": 4.0}),
        around(states={"stuck": Spell(100.0, None, 9.0)}, failed_attempts=9.0),
        "engine_stuck",
        "b",
        2.0,
    ),
    "attempts that failed for another reason": (
        window(more={"earlier_attempts": 0.2}),
        around(failed_attempts=9.0),
        "failed_attempts",
        "b",
        0.1,
    ),
    "longer prompts of one class": (
        window(more={"prefill": 0.3}),
        around(prompt_tokens_per_request=150.0),
        "longer_prompts",
        "b",
        0.1,
    ),
    "a slower prefill of the same prompts": (window(more={"prefill": 0.3}), around(), "prefill", "b", 0.1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_true_cause_comes_first_with_its_backend_and_time(name: str) -> None:
    after, now, cause, backend, seconds = CASES[name]
    first = found(window(), after, now)[0]
    assert (first.name, first.backend) == (cause, backend)
    assert first.seconds == pytest.approx(seconds)


def test_sessions_away_from_their_backend_are_told_with_the_share_that_kept_it() -> None:
    before = window(affinity="kept")
    after = window(affinity="placed", more={"prefill": 0.5})
    first, *rest = found(before, after, around(store_down=Spell(3600.0, 3604.0, 4.0)))
    assert first.name == "affinity_lost"
    assert first.words == "affinity hits 100 -> 0 %, the affinity store was down for 4 s until 01:00:04"
    assert all(abs(cause.seconds) < 1e-9 for cause in rest)


def test_a_state_is_described_with_its_time_and_not_as_present() -> None:
    attempts = window(more={"earlier_attempts": 4.0})
    over = {"stuck": Spell(3600.0, 3700.0, 100.0)}
    first = found(window(), attempts, around(states=over, failed_attempts=9.0))[0]
    assert first.words == "b was stuck for about 100 s until 01:01:40: 9 attempts failed there"
    lasts = {"stuck": Spell(3600.0, None, 100.0)}
    first = found(window(), attempts, around(states=lasts, failed_attempts=9.0))[0]
    assert first.words == "b was stuck from 01:00:00 to the end of the window: 9 attempts failed there"
    slower = window(more={"prefill": 0.3})
    hot = {"throttled": Spell(None, 3700.0, 300.0)}
    first = found(window(), slower, around(states=hot, token_seconds=0.06, tokens_per_second=90.0))[0]
    assert first.words == "b slower (throttled for about 5 min until 01:01:40, 3.0 times as long per token)"
    late = found(window(), window(more={"edge": 0.202}), around(lag=0.08))[0]
    assert late.words == "the router's event loop was blocked (timers ran 80 ms late on average)"


def test_a_larger_class_of_prompts_is_longer_prompts() -> None:
    first = found(window(), window(bucket="8k-32k", more={"prefill": 0.5}), around())[0]
    assert first.name == "longer_prompts"


def test_the_sentence_and_the_table_say_it_with_milliseconds() -> None:
    before, after = window(), window(more=QUEUE)
    result = found(before, after, around())
    text = sentence("mean", before, after, result)
    assert text == "mean +300 ms (114 -> 414 ms): engine queue (b) +300"
    quiet = sentence("mean", before, after, result, noise=0.35)
    assert quiet == "mean +300 ms (114 -> 414 ms): within normal variation (350 ms)"
    assert as_json(before, after, result, [], 0.35)["changed"] is False
    assert "+300.0 ms  engine queue (b)  [engine_queue]" in table(result)
    told = as_json(before, after, result, [])
    assert told["causes"][0]["name"] == "engine_queue"


EXPECTED = {"expected_tokens": 1000.0, "expected_cached": 900.0}


def with_cache(found: Circumstances, **values: float) -> Circumstances:
    for name, value in {**EXPECTED, **values}.items():
        setattr(found.engine("b") if name == "prompt_tokens_per_request" else found, name, value)
    return found


def test_prefixes_away_from_their_backend_are_a_cache_lost_by_routing() -> None:
    after = window(affinity="prefix_moved", more={"prefill": 0.5})
    first, *rest = found(window(affinity="prefix_kept"), after, around())
    assert first.name == "cache_lost_by_routing"
    assert first.words == "routing lost the cache (prefixes on their backend 100 -> 0 %)"
    assert all(abs(cause.seconds) < 1e-9 for cause in rest)


def test_prompts_with_a_new_beginning_are_no_fault_of_routing() -> None:
    after = window(affinity="prefix_new", more={"prefill": 0.5})
    assert found(window(affinity="prefix_kept"), after, around())[0].name == "other_prompts"


@pytest.mark.parametrize(
    ("now", "cause"),
    [
        ({"expected_cached": 100.0}, "cache_evicted"),
        ({"expected_tokens": 2000.0, "prompt_tokens_per_request": 2000.0}, "longer_prompts"),
        (
            {"expected_tokens": 3000.0, "expected_cached": 700.0, "prompt_tokens_per_request": 3000.0},
            "longer_prompts",
        ),
        ({}, "prefill"),
    ],
)
def test_an_evicted_cache_is_told_from_longer_prompts(now: dict[str, float], cause: str) -> None:
    kept = "prefix_kept"
    before, after = window(affinity=kept), window(affinity=kept, more={"prefill": 0.5, "engine_queue": 0.1})
    then, later = with_cache(around()), with_cache(around(), **now)
    first = causes(parts_by_backend(before, after), (before, after), (then, later))[0]
    assert first.name == cause
    if cause == "cache_evicted":
        assert first.seconds == pytest.approx(0.245), "the queue behind evicted prompts belongs to it"
        assert first.words == "cache evicted on b (900 of 1000 -> 100 of 1000 prompt tokens cached)"


@pytest.mark.parametrize(
    ("tokens", "words"),
    [(90.0, "thinking got longer (10 -> 90 tokens per request)"), (10.0, "thinking took longer")],
)
def test_longer_thinking_is_told_with_its_tokens(tokens: float, words: str) -> None:
    before, after = window(more={"thinking": 0.2}), window(more={"thinking": 2.0})
    then, now = around(), around()
    then.reasoning_tokens_per_request, now.reasoning_tokens_per_request = 10.0, tokens
    first = causes(parts_by_backend(before, after), (before, after), (then, now))[0]
    assert (first.name, first.words) == ("thinking_longer", words)
    assert first.seconds == pytest.approx(0.9)
