"""Parts that belong together become one cause, and what engines and routers said tells apart what looks alike."""

from typing import Any

import pytest

from observability.causes import Cause, causes
from observability.circumstances import Circumstances, EngineReadings
from observability.contributions import Window, parts_by_backend
from observability.telling import as_json, sentence, table

QUIET = Circumstances(
    engines={"a": EngineReadings(0.02, 100.0, 50.0), "b": EngineReadings(0.02, 100.0, 50.0)}
)
FAST = {"edge": 0.002, "router": 0.001, "engine_queue": 0.01, "prefill": 0.1, "unexplained": 0.001}


def window(*, affinity: str = "off", bucket: str = "0-500", more: dict[str, float] | None = None) -> Window:
    made = Window()
    for backend in ("a", "b"):
        cell = (bucket, "default", affinity, backend)
        means = {**FAST, **((more or {}) if backend == "b" else {})}
        made.counts[cell] = 50
        made.seconds[cell] = {component: mean * 50 for component, mean in means.items()}
    return made


def around(lag: float = 0.0, store_down: bool = False, **of_b: Any) -> Circumstances:
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
        "b",
        0.2,
    ),
    "an edge that is late while the router is not": (
        window(more={"edge": 0.402}),
        around(),
        "edge",
        "b",
        0.2,
    ),
    "attempts at a stuck engine": (
        window(more={"earlier_attempts": 4.0}),
        around(states={"stuck"}, failed_attempts=9.0),
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
    first, *rest = found(before, after, around(store_down=True))
    assert first.name == "affinity_lost"
    assert first.words == "affinity hits 100 -> 0 %, the store of pins is down"
    assert all(abs(cause.seconds) < 1e-9 for cause in rest)


def test_a_larger_class_of_prompts_is_longer_prompts() -> None:
    first = found(window(), window(bucket="8k-32k", more={"prefill": 0.5}), around())[0]
    assert first.name == "longer_prompts"


def test_the_sentence_and_the_table_say_it_with_milliseconds() -> None:
    before, after = window(), window(more=QUEUE)
    result = found(before, after, around())
    text = sentence("mean", before, after, result)
    assert text == "mean +300 ms (114 -> 414 ms): engine queue (b) +300"
    quiet = sentence("mean", before, after, result, noise=0.35)
    assert quiet == "mean +300 ms (114 -> 414 ms): nothing beyond what it varies by anyway (350 ms)"
    assert as_json(before, after, result, [], 0.35)["changed"] is False
    assert "+300.0 ms  engine queue (b)  [engine_queue]" in table(result)
    told = as_json(before, after, result, [])
    assert told["causes"][0]["name"] == "engine_queue"
