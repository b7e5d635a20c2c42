"""The pure function of the next step: its order, its determinism and its limits; and what records mean for a pool."""

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from router_service.rollout.collecting import row_of
from router_service.rollout.next_step import next_step
from router_service.rollout.plan import (
    ERROR,
    NOT_COUNTED,
    OK,
    TRUNCATED,
    Arm,
    Evidence,
    Measured,
    Pair,
    Plan,
    Row,
    State,
    as_json,
    evidence_from,
    plan_from,
    state_from,
)

PLAN = Plan("r", "old", "new", (5.0, 25.0, 50.0, 100.0), {"ttft_p50": 1.25, "errors": 0.02})
NOW = State("new", 25.0)


def arm(count: int, ttft: float = 100.0, errors: int = 0, seed: int = 1) -> Arm:
    random = Random(seed)
    rows: list[Row] = [(ttft * random.lognormvariate(0, 0.2), 10.0, OK, 0) for _ in range(count)]
    rows[:errors] = [(None, None, ERROR, 0)] * errors
    return Arm(count, tuple(rows))


def evidence(old: Arm, new: Arm) -> Evidence:
    return Evidence(Pair(old, new), Pair(old, new))


GOOD = evidence(arm(400), arm(400, seed=2))
SLOW = evidence(arm(400), arm(400, ttft=250.0))
ERRING = evidence(arm(400), arm(400, errors=60))
NONE = Evidence()


@pytest.mark.parametrize(
    ("state", "found", "plan", "expected"),
    [
        (None, NONE, PLAN, ("start", "started", 5.0, "advancing")),
        (None, NONE, replace(PLAN, paused=True), ("hold", "paused", 0.0, "advancing")),
        (State("new", 0.0), NONE, PLAN, ("start", "started", 5.0, "advancing")),
        (State("other", 50.0, "done"), GOOD, PLAN, ("start", "started", 5.0, "advancing")),
        (NOW, GOOD, PLAN, ("advance", "kept", 50.0, "advancing")),
        (NOW, GOOD, replace(PLAN, paused=True), ("hold", "paused", 25.0, "advancing")),
        (NOW, SLOW, PLAN, ("back", "ttft_p50", 5.0, "went_back")),
        (NOW, ERRING, PLAN, ("back", "errors", 5.0, "went_back")),
        (NOW, SLOW, replace(PLAN, paused=True), ("back", "ttft_p50", 5.0, "went_back")),
        (State("new", 5.0), SLOW, PLAN, ("back", "ttft_p50", 0.0, "went_back")),
        (State("new", 5.0, "went_back"), SLOW, PLAN, ("back", "ttft_p50", 0.0, "went_back")),
        (State("new", 5.0, "went_back"), GOOD, PLAN, ("hold", "waits_for_attempt", 5.0, "went_back")),
        (State("new", 0.0, "went_back"), NONE, PLAN, ("hold", "waits_for_attempt", 0.0, "went_back")),
        (State("new", 0.0, "went_back"), NONE, replace(PLAN, attempt=2), ("start", "new_attempt", 5.0, "advancing")),
        (State("new", 25.0, "went_back"), NONE, replace(PLAN, attempt=2), ("start", "new_attempt", 25.0, "advancing")),
        (NOW, NONE, PLAN, ("hold", "too_few_requests", 25.0, "advancing")),
        (NOW, evidence(arm(99), arm(400)), PLAN, ("hold", "too_few_requests", 25.0, "advancing")),
        (NOW, evidence(arm(19), arm(19, ttft=900)), PLAN, ("hold", "too_few_requests", 25.0, "advancing")),
        (NOW, evidence(arm(20), arm(20, ttft=900)), PLAN, ("back", "ttft_p50", 5.0, "went_back")),
        (NOW, evidence(arm(400), arm(400, ttft=125.0)), PLAN, ("hold", "not_yet_shown", 25.0, "advancing")),
        (State("new", 100.0), NONE, PLAN, ("finish", "last_step", 100.0, "done")),
        (State("new", 100.0, "done"), NONE, PLAN, ("hold", "watching", 100.0, "done")),
        (State("new", 50.0), GOOD, replace(PLAN, steps=(5.0, 50.0)), ("finish", "last_step", 50.0, "done")),
        (State("new", 50.0, "done"), SLOW, replace(PLAN, steps=(5.0, 50.0)), ("back", "ttft_p50", 5.0, "went_back")),
        (State("new", 50.0, "done"), GOOD, PLAN, ("advance", "kept", 100.0, "advancing")),
        (State("new", 33.0), GOOD, PLAN, ("advance", "kept", 50.0, "advancing")),
    ],
)  # fmt: skip
def test_the_next_step(
    state: State | None, found: Evidence, plan: Plan, expected: tuple[object, ...]
) -> None:
    step = next_step(state, found, plan)
    assert (step.action, step.reason, step.percent, step.state) == expected


@pytest.mark.parametrize(
    "last", [Pair(arm(0), arm(0)), Pair(arm(40), arm(1, ttft=9000.0)), Pair(arm(19), arm(40))]
)
def test_a_pool_that_hardly_finishes_requests_does_not_advance_on_earlier_windows(last: Pair) -> None:
    step = next_step(NOW, Evidence(last, GOOD.step), PLAN)
    assert (step.action, step.reason, step.percent) == ("hold", "too_few_requests", 25.0)
    enough = next_step(NOW, Evidence(Pair(arm(20), arm(20, seed=2)), GOOD.step), PLAN)
    assert enough.action == "advance"


def test_an_objective_without_values_is_not_shown() -> None:
    answers = tuple((None, None, OK, 0) for _ in range(400))  # no streams
    step = next_step(NOW, evidence(Arm(400, answers), Arm(400, answers)), PLAN)
    assert (step.action, step.reason) == ("hold", "not_yet_shown")


def test_the_same_arguments_give_the_same_step_after_they_were_written_down() -> None:
    for found in (GOOD, SLOW, ERRING, NONE):
        step = next_step(NOW, found, PLAN)
        written = json.loads(json.dumps([as_json(NOW), as_json(found), as_json(PLAN)]))
        again = next_step(state_from(written[0]), evidence_from(written[1]), plan_from(written[2]))
        assert again == step


def test_random_evidence_never_skips_a_step_or_leaves_the_plan() -> None:
    random = Random(20)
    for _ in range(60):
        percent = random.choice([*PLAN.steps, 0.0, 33.0])
        state = State("new", percent, random.choice(["advancing", "went_back", "done"]))
        sizes = [random.choice([0, 10, 60, 150]) for _ in range(2)]
        old, new = (arm(size, random.uniform(50, 200), seed=random.randrange(99)) for size in sizes)
        step = next_step(state, evidence(old, new), PLAN)
        assert step.percent in {percent, PLAN.below(percent), PLAN.above(percent), PLAN.steps[0]}
        assert (step.action == "back") == (step.percent < percent)
        assert step.action != "back" or step.state == "went_back"
        assert state.state != "went_back" or step.percent <= percent


def record(**more: Any) -> dict[str, Any]:
    return {
        "outcome": "ok", "stream": True, "first_pool": "new", "pool": "new", "first_token_ms": 50.04, "total_ms": 200.0,
        "decode_ms": 90.0, "tokens": {"completion": 10}, "attempts": [{"outcome": "complete", "first_byte_ms": 50.0}],
        **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "row"),
    [
        ({}, (50.0, 10.0, OK)),
        ({"outcome": "client_error"}, None),
        ({"shadow_of": "another"}, None),
        ({"outcome": "upstream_error", "first_token_ms": None, "decode_ms": None}, (None, None, ERROR)),
        ({"outcome": "refused", "first_token_ms": None, "decode_ms": None}, (None, None, ERROR)),
        ({"outcome": "truncated"}, (50.0, 10.0, TRUNCATED)),
        ({"pool": "old"}, (50.0, 10.0, ERROR)),
        (
            {"attempts": [{"outcome": "rejected", "first_byte_ms": None}, {"outcome": "complete"}]},
            (50.0, 10.0, ERROR),
        ),
        (
            {"attempts": [{"outcome": "broken", "first_byte_ms": 9.0}, {"outcome": "complete"}]},
            (50.0, 10.0, TRUNCATED),
        ),
        (
            {"attempts": [{"outcome": "stale", "first_byte_ms": None}, {"outcome": "complete"}]},
            (50.0, 10.0, OK),
        ),
        ({"outcome": "cancelled", "first_token_ms": None, "decode_ms": None}, (200.0, None, NOT_COUNTED)),
        ({"tokens": {"completion": 1}}, (50.0, None, OK)),
    ],
)
def test_what_a_record_says_about_its_pool(more: dict[str, Any], row: Measured | None) -> None:
    assert row_of(record(**more)) == row
