"""Routers get a new share at different times: requests of another share say nothing about a step."""

from datetime import UTC, datetime
from typing import Any

import pytest

from harness.clock import Clock
from router_service.config.rollout_model import ShareSection
from router_service.rollout.plan import Plan
from router_service.rollout.run import RolloutRun

NOW, WINDOW = 1_800_000_000.0, 60.0
PLAN = Plan("r", "old", "new", (5.0, 25.0, 50.0), {"errors": 0.02}, window_seconds=WINDOW)


def requests(percent: float | None, outcome: str, count: int = 200) -> list[dict[str, Any]]:
    """Return requests of both pools that were decided with this share; those of the new pool end in ``outcome``."""
    share = {} if percent is None else {"rollout": {"to": "new", "percent": percent}}
    at = datetime.fromtimestamp(NOW + 30, UTC).isoformat()
    return [
        {
            **share, "request_id": f"{percent}-{pool}-{number}", "time": at, "rule": "r", "first_pool": pool, "pool": pool,
            "outcome": outcome if pool == "new" else "ok", "total_ms": 1.0, "attempts": [],
        }
        for pool in ("old", "new")
        for number in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("late", [5.0, 50.0, None])
def test_a_fault_at_another_share_neither_moves_nor_repeats_a_step(late: float | None) -> None:
    """As within 90 seconds of a step back from 50: routers still send half of the requests to the worse pool."""
    clock = Clock(NOW)
    since = datetime.fromtimestamp(NOW, UTC).isoformat()
    run = RolloutRun(PLAN, ShareSection(to="new", percent=25.0, since=since), clock)
    run.add(requests(late, "upstream_error"))
    clock.now += WINDOW
    decision = run.decide()
    assert decision is not None
    assert (decision.step.action, decision.step.reason) == ("hold", "too_few_requests")
    run.stored(decision)
    run.add(requests(25.0, "upstream_error"))
    clock.now += WINDOW
    decision = run.decide()
    assert decision is not None
    assert (decision.step.action, decision.step.percent) == ("back", 5.0)


def test_good_requests_at_another_share_do_not_advance_a_step() -> None:
    clock = Clock(NOW)
    since = datetime.fromtimestamp(NOW, UTC).isoformat()
    run = RolloutRun(PLAN, ShareSection(to="new", percent=25.0, since=since), clock)
    run.add(requests(5.0, "ok", 400))
    clock.now += WINDOW
    decision = run.decide()
    assert decision is not None
    assert decision.step.action == "hold"
