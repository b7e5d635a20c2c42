"""Engines crash, freeze, wedge and slow down under load: no request is lost, and the platform names the fault."""

import pytest

from harness.chaos.faults import (
    ask_engine_a,
    frozen,
    killed_again_and_again,
    killed_once,
    slowed,
    wedged,
)
from harness.chaos.load import Ending
from harness.chaos.scenario import Expected, endure
from harness.chaos.table import Row
from harness.chaos.world import World

pytestmark = [pytest.mark.service, pytest.mark.timeout(500)]

# A stream that had begun on the engine and may not be resumed ends with an error event. A request without a
# usable engine is refused.
DIED = (Ending.ERROR_EVENT,)
AGAIN = "engine of backend-b started again: its process had ended"


def test_an_engine_that_is_killed_again_and_again(world: World, table: list[Row]) -> None:
    row, answers = endure(
        world,
        "engine killed, again and again",
        killed_again_and_again("backend-a"),
        Expected(alerts=["BackendUnreachable"], verdict="execution", allowed=DIED),
    )
    table.append(row)
    assert row.resumed > 0, "resumable streams were resumed"
    assert all(a.ending is Ending.GOOD or a.first_at for a in answers), (
        "requests without a response yet were retried elsewhere"
    )


@pytest.mark.full
def test_an_engine_that_is_killed_once(world: World, table: list[Row]) -> None:
    row, _ = endure(
        world, "engine killed once", killed_once("backend-b"), Expected(allowed=DIED, changes=[AGAIN])
    )
    table.append(row)


@pytest.mark.full
def test_an_engine_that_is_frozen(world: World, table: list[Row]) -> None:
    row, _ = endure(
        world,
        "engine frozen (SIGSTOP)",
        frozen("backend-a", ask_engine_a),
        Expected(alerts=["BackendUnreachable"], verdict="execution", allowed=DIED),
        at_least_seconds=22,
    )
    table.append(row)


@pytest.mark.full
def test_an_engine_that_is_wedged(world: World, table: list[Row]) -> None:
    row, _ = endure(
        world,
        "engine wedged (answers /health, makes no token)",
        wedged("a"),
        Expected(alerts=["BackendStuck"], verdict="execution", allowed=DIED),
    )
    table.append(row)


@pytest.mark.full
def test_an_engine_that_is_throttled(world: World, table: list[Row]) -> None:
    row, _ = endure(
        world,
        "engine slow: throttled device",
        slowed("a", "throttled", 4.0),
        Expected(alerts=["BackendThrottled"], verdict="execution"),
    )
    table.append(row)


@pytest.mark.full
def test_an_engine_that_is_slow_for_no_known_reason(world: World, table: list[Row]) -> None:
    row, _ = endure(
        world,
        "engine slow: no reason shown",
        slowed("a", "slow", 5.0),
        Expected(alerts=["BackendSlow"], verdict="execution"),
        at_least_seconds=12,
        well_seconds=30,
    )
    table.append(row)
