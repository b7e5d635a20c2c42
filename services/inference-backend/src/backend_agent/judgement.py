"""Judges an engine's state from samples. Pure: no clock, no network; each sample has its time.

Token progress is the evidence: an engine that answers /health can be wedged for hours, its gauges lag, and a
wedged device shows 100 % utilisation. Without token progress the device decides: whether its readings match
those during its last token generation (``busy_baseline``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from backend_agent.busy_baseline import Baseline, Reading, activity, clocks_are_down
from platform_contracts.backend_states import BackendState

State = BackendState

# A saturated or unknown engine still serves requests; excluding it would make an overload worse.
READY_STATES = frozenset({State.IDLE, State.WORKING, State.SATURATED, State.THROTTLED, State.UNKNOWN})


@dataclass(frozen=True)
class Sample:
    """One sample of the engine and its device. Counters only grow; ``device`` is None without data."""

    at_seconds: float
    reachable: bool
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    prompt_tokens: float | None = None
    generated_tokens: float | None = None
    finished_requests: float | None = None
    device: Reading | None = None


@dataclass(frozen=True)
class Limits:
    """Limits for silence, in seconds, and for a full engine.

    A stuck engine must be detected within 15 s of its last token: ``no_progress_seconds`` is shorter by up to
    two sampling intervals of one second each. After ``no_progress_bound_seconds`` the engine is stuck, whatever
    the device reports.
    """

    unreachable_seconds: float = 3.0
    no_progress_seconds: float = 12.5
    no_progress_bound_seconds: float = 120.0
    waiting_is_saturated: float = 1.0
    kv_is_saturated: float = 0.95
    recent_seconds: float = 5.0


@dataclass(frozen=True)
class Verdict:
    """A state and its evidence."""

    state: State
    evidence: tuple[str, ...]


NOTHING_LEARNT = Baseline()


def judge(samples: Sequence[Sample], limits: Limits, baseline: Baseline = NOTHING_LEARNT) -> Verdict:
    """Return the engine's state; ``samples`` are in order of time, the last one is the current one."""
    if not samples:
        return Verdict(State.UNKNOWN, ("no sample was taken",))
    now = samples[-1]
    if not now.reachable:
        return _silent(samples, limits)
    if now.running is None or now.waiting is None or tokens(now) is None:
        return Verdict(State.UNKNOWN, ("the engine's metrics lack running, waiting or token counts",))
    busy = now.running + now.waiting
    stalled_seconds = now.at_seconds - _last_progress(samples)
    figures = f"running {now.running:.0f}, waiting {now.waiting:.0f}"
    since = now.at_seconds - limits.recent_seconds
    recent = [one.device for one in samples if one.device is not None and one.at_seconds >= since]
    if busy > 0 and stalled_seconds >= limits.no_progress_seconds:
        return _stalled(stalled_seconds, limits, figures, recent, baseline)
    if busy > 0 and (down := clocks_are_down(recent, baseline)):
        return Verdict(State.THROTTLED, (down, figures))
    if now.waiting >= limits.waiting_is_saturated or (now.kv_usage or 0.0) >= limits.kv_is_saturated:
        return Verdict(State.SATURATED, (figures, f"KV cache {100 * (now.kv_usage or 0.0):.0f} % used"))
    if busy > 0:
        return Verdict(State.WORKING, (figures, f"last progress {stalled_seconds:.1f} s ago"))
    return Verdict(State.IDLE, ("no request is running or waiting",))


def _stalled(
    seconds: float, limits: Limits, figures: str, recent: Sequence[Reading], baseline: Baseline
) -> Verdict:
    standing = f"no token, prompt token or finished request for {seconds:.0f} s"
    doing = activity(recent, baseline)
    evidence = (standing, figures, doing.evidence, *_errors(recent))
    if doing.busy is False or seconds >= limits.no_progress_bound_seconds:
        return Verdict(State.STUCK, evidence)
    return Verdict(State.WORKING if doing.busy else State.UNKNOWN, evidence)


def _errors(recent: Sequence[Reading]) -> tuple[str, ...]:
    """Return XIDs as evidence only: healthy devices report them too."""
    codes = sorted({one.xid for one in recent if one.xid})
    return (f"XID {', '.join(map(str, codes))} reported",) if codes else ()


def _silent(samples: Sequence[Sample], limits: Limits) -> Verdict:
    now = samples[-1].at_seconds
    answered = next((sample.at_seconds for sample in reversed(samples) if sample.reachable), None)
    if answered is None:
        return Verdict(State.UNREACHABLE, ("the engine has not answered yet",))
    silent_seconds = now - answered
    if silent_seconds < limits.unreachable_seconds:
        return Verdict(State.UNKNOWN, (f"no answer for {silent_seconds:.1f} s",))
    return Verdict(State.UNREACHABLE, (f"no answer for {silent_seconds:.1f} s",))


def _last_progress(samples: Sequence[Sample]) -> float:
    """Return the time of the engine's last progress: a counter changed, or the engine was idle."""
    moved = samples[0].at_seconds
    before: Sample | None = None
    for sample in samples:
        if not sample.reachable or tokens(sample) is None:
            continue
        idle = not (sample.running or 0) + (sample.waiting or 0)
        if before is None or idle or tokens(sample) != tokens(before):
            moved = sample.at_seconds
        before = sample
    return moved


def tokens(sample: Sample) -> tuple[float, float, float] | None:
    """Return the counters whose change is progress; None if the engine did not report them."""
    if sample.prompt_tokens is None or sample.generated_tokens is None:
        return None
    return (sample.prompt_tokens, sample.generated_tokens, sample.finished_requests or 0.0)
