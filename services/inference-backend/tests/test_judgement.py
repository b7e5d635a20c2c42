"""The agent judges an engine's state by token progress; a saturated engine is never reported as stuck."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from backend_agent.busy_baseline import Baseline, Learner, Reading
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


GPU = Baseline(busy={"power_watts": 200.0, "clock_mhz": 1980.0}, idle={"power_watts": 30.0})


def standing_still(seconds: int, device: Reading | None) -> list[Sample]:
    return [replace(one, device=device) for one in samples(seconds, running=1, tokens=[7] * seconds)]


def test_no_token_and_a_device_that_does_not_work_mean_stuck_within_15_seconds() -> None:
    wedged = Reading(utilization_ratio=1.0, power_watts=31.0)
    verdict = judge(standing_still(15, wedged), LIMITS, GPU)
    assert verdict.state is State.STUCK
    assert "for 14 s" in verdict.evidence[0]
    assert "power 31 W (at work 200 W, idle 30 W)" in verdict.evidence


def test_a_pause_shorter_than_the_limit_is_no_wedge() -> None:
    assert judge(standing_still(13, Reading(power_watts=31.0)), LIMITS, GPU).state is State.WORKING


def test_a_long_prefill_on_a_busy_device_is_work_until_the_bound() -> None:
    busy = Reading(power_watts=180.0)
    assert judge(standing_still(100, busy), LIMITS, GPU).state is State.WORKING
    assert judge(standing_still(122, busy), LIMITS, GPU).state is State.STUCK


def test_silent_telemetry_is_unknown_stays_ready_and_ends_at_the_bound() -> None:
    assert judge(standing_still(60, None), LIMITS, GPU).state is State.UNKNOWN
    assert judge(standing_still(60, Reading(power_watts=31.0)), LIMITS).state is State.UNKNOWN, "not learnt"
    assert State.UNKNOWN in READY_STATES
    assert judge(standing_still(122, None), LIMITS, GPU).state is State.STUCK


def test_an_error_code_is_evidence_and_never_a_reason() -> None:
    noisy = Reading(power_watts=190.0, xid=31)
    moving = [replace(one, device=noisy) for one in samples(60, running=1, tokens=range(60))]
    assert judge(moving, LIMITS, GPU).state is State.WORKING
    stuck = judge(standing_still(20, Reading(power_watts=30.0, xid=79)), LIMITS, GPU)
    assert "XID 79 reported" in stuck.evidence


@pytest.mark.parametrize(
    ("clock", "reasons", "state"),
    [
        (600.0, 0x8, State.THROTTLED),
        (600.0, None, State.THROTTLED),
        (600.0, 0x4, State.WORKING),  # a power cap is no fault
        (1900.0, 0x8, State.WORKING),  # a reason without an effect
    ],
)
def test_throttled_needs_slow_clocks_and_the_devices_own_reason(
    clock: float, reasons: int | None, state: State
) -> None:
    slow = Reading(power_watts=110.0, clock_mhz=clock, throttle_reasons=reasons)
    moving = [replace(one, device=slow) for one in samples(30, running=1, tokens=range(30))]
    assert judge(moving, LIMITS, GPU).state is state


def test_a_cpu_engine_is_judged_by_the_time_its_processes_take() -> None:
    cpu = Baseline(busy={"cpu_cores": 1.4}, idle={"cpu_cores": 0.02})
    assert judge(standing_still(15, Reading(cpu_cores=0.01)), LIMITS, cpu).state is State.STUCK
    assert judge(standing_still(60, Reading(cpu_cores=0.7)), LIMITS, cpu).state is State.WORKING


def test_a_throttled_device_does_not_become_the_measure() -> None:
    learner = Learner()
    for _ in range(5):
        learner.learn(Reading(power_watts=200.0, clock_mhz=1980.0, throttle_reasons=0), at_work=True)
        learner.learn(Reading(power_watts=100.0, clock_mhz=600.0, throttle_reasons=0x8), at_work=True)
    assert learner.baseline().busy == {"power_watts": 200.0, "clock_mhz": 1980.0}


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
