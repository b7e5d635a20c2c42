"""Redis and the configuration fail under load: no request is lost, and the platform reports the fault.

The router's own scenarios measure, without load, that no request waits for Redis.
"""

import pytest

from harness.chaos.faults import (
    ask_redis,
    configuration_with_errors,
    frozen,
    killed_again_and_again,
    redis_full,
)
from harness.chaos.scenario import Expected, Traffic, endure
from harness.chaos.table import Row
from harness.chaos.world import World

pytestmark = [pytest.mark.service, pytest.mark.timeout(500)]


def test_a_redis_that_is_frozen(world: World, table: list[Row]) -> None:
    row, _ = endure(
        world,
        "Redis frozen (SIGSTOP)",
        frozen("redis", ask_redis),
        Expected(alerts=["AffinityStoreDown"]),
        Traffic(sessions=50),
    )
    table.append(row)


@pytest.mark.full
def test_a_redis_that_is_gone(world: World, table: list[Row]) -> None:
    row, _ = endure(
        world,
        "Redis gone",
        killed_again_and_again("redis"),
        Expected(alerts=["AffinityStoreDown"]),
        Traffic(sessions=50),
    )
    table.append(row)


@pytest.mark.full
def test_a_redis_that_is_full(world: World, table: list[Row]) -> None:
    row, _ = endure(
        world, "Redis full", redis_full, Expected(alerts=["AffinityStoreDown"]), Traffic(sessions=50)
    )
    table.append(row)


@pytest.mark.full
def test_a_configuration_with_errors(world: World, table: list[Row]) -> None:
    before = {labels["hash"] for labels, _ in world.query("router_config_info")}
    row, _ = endure(
        world,
        "configuration replaced by one with errors",
        configuration_with_errors,
        Expected(alerts=["RouterConfigRefused"]),
    )
    table.append(row)
    assert {labels["hash"] for labels, _ in world.query("router_config_info")} == before
