"""What an engine is doing is judged from token progress; a full engine is never called stuck."""

from collections.abc import Iterable

import pytest

from backend_agent.judgement import READY_STATES, Limits, Sample, State, judge

LIMITS = Limits()


def samples(
    seconds: int, *, running: float, waiting: float = 0, tokens: Iterable[float], kv: float = 0.1
) -> list[Sample]:
    """One sample a second; ``tokens`` are the generated tokens at each."""
    return [
        Sample(
            at_seconds=float(second),
            reachable=True,
            running=running,
            waiting=waiting,
            kv_usage=kv,
            prompt_tokens=100.0,
            generated_tokens=generated,
            finished_requests=0.0,
        )
        for second, generated in zip(range(seconds), tokens, strict=False)
    ]


def test_an_engine_without_requests_is_idle() -> None:
    assert judge(samples(5, running=0, tokens=[7] * 5), LIMITS).state is State.IDLE


def test_tokens_that_come_mean_working() -> None:
    assert judge(samples(30, running=2, tokens=range(30)), LIMITS).state is State.WORKING


def test_requests_without_a_token_for_the_limit_mean_stuck() -> None:
    verdict = judge(samples(17, running=1, tokens=[7] * 17), LIMITS)
    assert verdict.state is State.STUCK
    assert "16 s" in verdict.evidence[0]


def test_a_pause_shorter_than_the_limit_is_no_wedge() -> None:
    assert judge(samples(14, running=1, tokens=[7] * 14), LIMITS).state is State.WORKING


def test_the_time_before_a_request_came_does_not_count_as_a_pause() -> None:
    idle = samples(60, running=0, tokens=[7] * 60)
    begun = Sample(60.0, True, running=1, waiting=0, kv_usage=0, prompt_tokens=100, generated_tokens=7)
    assert judge([*idle, begun], LIMITS).state is State.WORKING


def test_ten_minutes_of_saturation_are_never_stuck_and_stay_ready() -> None:
    verdict = judge(samples(600, running=32, waiting=40, tokens=range(600), kv=0.99), LIMITS)
    assert verdict.state is State.SATURATED
    assert verdict.state in READY_STATES


def test_prompt_tokens_are_progress_too() -> None:
    prefilling = [
        Sample(float(s), True, running=1, waiting=0, kv_usage=0, prompt_tokens=100.0 * s, generated_tokens=7)
        for s in range(60)
    ]
    assert judge(prefilling, LIMITS).state is State.WORKING


def test_missing_figures_are_unknown_never_healthy() -> None:
    assert judge([Sample(0.0, reachable=True)], LIMITS).state is State.UNKNOWN


@pytest.mark.parametrize(("silent", "state"), [(2, State.UNKNOWN), (5, State.UNREACHABLE)])
def test_silence_becomes_unreachable_after_its_limit(silent: int, state: State) -> None:
    seen = samples(3, running=0, tokens=[1] * 3)
    lost = [Sample(2.0 + second, reachable=False) for second in range(1, silent + 1)]
    assert judge([*seen, *lost], LIMITS).state is state


def test_stuck_unreachable_and_cold_engines_get_no_requests() -> None:
    assert READY_STATES.isdisjoint(
        {State.STUCK, State.UNREACHABLE, State.STARTING, State.WARMING, State.DRAINING}
    )
