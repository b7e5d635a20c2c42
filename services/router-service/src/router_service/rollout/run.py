"""Runs the rollouts of one configuration on a clock: counts records, and decides once per window. Reads no file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from platform_contracts.log_lines import timestamp
from router_service.config.rollout_model import Decided, ShareSection
from router_service.rollout.collecting import Windows
from router_service.rollout.next_step import next_step
from router_service.rollout.plan import Evidence, Plan, State, Step

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision with everything that it rests on. ``share`` is what the weights file gets."""

    plan: Plan
    state: State | None
    evidence: Evidence
    step: Step
    share: ShareSection


class RolloutRun:
    """One rule's rollout. ``share`` is its entry in the weights file, None before it starts."""

    def __init__(self, plan: Plan, share: ShareSection | None, clock: Clock, salt: str = "") -> None:
        self._clock = clock
        self._salt = salt
        self.plan = plan
        self.share = share
        self.pending: Decision | None = None
        """A decision that is not stored yet."""
        self._windows = self._new_windows()
        self._ends = self._first_end()

    def _new_windows(self) -> Windows:
        percent = 0.0 if self.share is None else self.share.percent
        return Windows(self.plan, self._since(), percent, self._salt)

    def _since(self) -> float:
        since = self.share.since if self.share is not None else None
        return self._clock() if since is None else datetime.fromisoformat(since).timestamp()

    def _first_end(self) -> float:
        """Return when the first window ends: now, if the next decision needs no evidence."""
        if self._state() is None or self._attempts_again():
            return self._clock()
        return max(self._clock(), self._since() + self.plan.warm_up_seconds) + self.plan.window_seconds

    def _state(self) -> State | None:
        share = self.share
        if share is None or share.to != self.plan.to:
            return None
        return State(share.to, share.percent, share.state, share.attempt)

    def _attempts_again(self) -> bool:
        share = self.share
        return share is not None and share.state == "went_back" and self.plan.attempt > share.attempt

    def update(self, plan: Plan, share: ShareSection | None) -> None:
        """Use a changed plan or entry of the weights file. A step that another controller took restarts the windows."""
        moved = (
            _identity(share) != _identity(self.share) or plan.to != self.plan.to or plan.old != self.plan.old
        )
        changed = plan != self.plan
        self.plan, self.share = plan, share
        if moved or changed:
            self.pending = None
        if moved:
            self._windows = self._new_windows()
            self._ends = self._first_end()
        elif changed:
            self._windows.plan = plan
            self._ends = min(self._ends, self._first_end())

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Count records of finished requests."""
        for record in records:
            self._windows.add(record)

    def decide(self) -> Decision | None:
        """Return the decision if the window has ended, otherwise None.

        The caller stores the share and calls :meth:`stored`. Until then the same decision is returned: a step back must
        not wait for another window.
        """
        if self.pending is not None:
            return self.pending
        now = self._clock()
        if now < self._ends:
            return None
        state, evidence = self._state(), self._windows.close()
        step = next_step(state, evidence, self.plan)
        moved = state is None or step.action == "start" or step.percent != state.percent
        at = timestamp(now)
        since = at if moved or self.share is None else self.share.since
        is_new = state is None or step.action == "start"
        share = ShareSection(
            to=self.plan.to,
            percent=step.percent,
            state=step.state,
            since=since,
            attempt=self.plan.attempt if is_new else self.share.attempt,  # type: ignore[union-attr]
            decided=Decided(at=at, action=step.action, reason=step.reason),
        )
        self.pending = Decision(self.plan, state, evidence, step, share)
        self._ends = now + self.plan.window_seconds
        return self.pending

    def stored(self, decision: Decision) -> None:
        """Continue from a decision that is now in the weights file."""
        self.pending = None
        before, self.share = self.share, decision.share
        if _identity(before) != _identity(decision.share):
            self._windows = self._new_windows()
            self._ends = self._first_end()


def _identity(share: ShareSection | None) -> tuple[object, ...] | None:
    return None if share is None else (share.to, share.percent, share.since, share.attempt)
