"""Decides the next step of a rollout: a pure function of its plan, its state and the evidence."""

import json
from typing import cast

from router_service.config.rollout_model import RolloutReason
from router_service.rollout.judgement import LEAST_REQUESTS, judge, named
from router_service.rollout.plan import Evidence, Finding, Pair, Plan, State, Step, as_json
from router_service.routing.hashing import digest


def next_step(state: State | None, evidence: Evidence, plan: Plan) -> Step:
    """Return the step that follows from the requests since the last one. The first case that applies decides:

    1. A rollout without a state, or whose state is of another pool, starts.
    2. A raised `attempt` continues after a step back.
    3. A broken objective goes back one step.
    4. A rollout that went back, is paused or has reached its last step keeps its share.
    5. If the evidence shows that every objective is kept, the rollout goes up one step; otherwise it holds.

    The bootstrap's seed is computed from the arguments: the same arguments give the same step.
    """
    if state is None or state.to != plan.to or (state.percent <= 0 and state.state == "advancing"):
        if plan.paused:
            return Step("hold", "paused", 0.0, "advancing")
        return Step("start", "started", plan.steps[0], "advancing")
    if plan.attempt > state.attempt and state.state == "went_back":
        percent = state.percent or plan.steps[0]
        return Step("start", "new_attempt", percent, "advancing")
    seed = _seed(state, evidence, plan)
    findings = [
        *_judged(evidence.last, plan, seed, "last"),
        *([] if evidence.step == evidence.last else _judged(evidence.step, plan, seed + 1, "step")),
    ]
    broken = named(findings, "broken")
    if broken and state.percent > 0:
        reason = cast(RolloutReason, broken[0].objective)
        return Step("back", reason, plan.below(state.percent), "went_back", tuple(findings))
    return _keep_or_advance(state, evidence, plan, tuple(findings))


def _keep_or_advance(state: State, evidence: Evidence, plan: Plan, findings: tuple[Finding, ...]) -> Step:
    percent = state.percent
    if state.state == "went_back":
        return Step("hold", "waits_for_attempt", percent, "went_back", findings)
    following = plan.above(percent)
    if state.state == "done" and following is None:
        return Step("hold", "watching", percent, "done", findings)
    if percent >= 100:  # The old pool gets no more requests to compare with.
        return Step("finish", "last_step", percent, "done", findings)
    if plan.paused:
        return Step("hold", "paused", percent, state.state, findings)
    if _fewest(evidence.step) < plan.min_requests or _fewest(evidence.last) < LEAST_REQUESTS:
        # A pool that hardly finishes requests must not advance on earlier evidence: the last window needs some too.
        return Step("hold", "too_few_requests", percent, "advancing", findings)
    window = "last" if evidence.step == evidence.last else "step"
    shown = {one.objective for one in findings if one.window == window and one.verdict == "kept"}
    if shown != set(plan.objectives):
        return Step("hold", "not_yet_shown", percent, "advancing", findings)
    if following is None:
        return Step("finish", "last_step", percent, "done", findings)
    return Step("advance", "kept", following, "advancing", findings)


def _fewest(pair: Pair) -> int:
    """Return the requests of the pool with fewer requests."""
    return min(pair.old.requests, pair.new.requests)


def _judged(pair: Pair, plan: Plan, seed: int, window: str) -> list[Finding]:
    if _fewest(pair) < LEAST_REQUESTS:
        return []
    return judge(pair, plan.objectives, plan.confidence, seed, window)


def _seed(state: State, evidence: Evidence, plan: Plan) -> int:
    """Return a seed that depends on every argument of the decision."""
    values = [as_json(state), as_json(evidence), as_json(plan)]
    return int(digest("rollout", json.dumps(values, sort_keys=True))[:12], 16)
