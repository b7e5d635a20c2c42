"""A recovered backend gets a ramped share of the requests next to its peers, and all requests without peers."""

import pytest

from router_service.pipeline.fleet import Fleet
from router_service.pipeline.line import Bounds
from router_service.ports import Endpoint, Health
from router_service.resilience.breaker import BreakerSettings
from router_service.routing.vocabulary import State

READY, AWAY = Health(True, State.IDLE), Health(False, State.DRAINING)


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def fleet(time: Time) -> Fleet:
    fleet = Fleet(["p"], Bounds(breaker=BreakerSettings(slow_start_seconds=30)), time)
    fleet.set_endpoints("p", [Endpoint(name, f"http://{name}", f"http://{name}/readyz") for name in "ab"])
    for name in "ab":
        fleet.set_health("p", name, READY)
    return fleet


def restart(fleet: Fleet, name: str) -> None:
    fleet.set_health("p", name, AWAY)
    fleet.set_health("p", name, READY)


def ramps(fleet: Fleet, time: Time) -> dict[str, float]:
    fleet.refresh(time.now)
    return {backend.name: round(backend.ramp, 3) for backend in fleet.pools["p"].backends}


def test_one_that_came_back_starts_slowly_beside_one_that_stayed(fleet: Fleet, time: Time) -> None:
    restart(fleet, "a")
    assert ramps(fleet, time) == {"a": 0.1, "b": 1.0}
    time.now += 15
    assert ramps(fleet, time) == {"a": 0.5, "b": 1.0}
    time.now += 15
    assert ramps(fleet, time) == {"a": 1.0, "b": 1.0}


def test_the_only_one_left_takes_everything_and_shares_again_when_the_other_is_back(
    fleet: Fleet, time: Time
) -> None:
    restart(fleet, "a")
    time.now += 6
    fleet.set_health("p", "b", AWAY)
    assert ramps(fleet, time)["a"] == 1.0, "b drains: refusing what a can serve helps nobody"
    time.now += 3
    fleet.set_health("p", "b", READY)
    assert ramps(fleet, time) == {"a": 1.0, "b": 0.333}


def limits(fleet: Fleet) -> list[int]:
    return [backend.limit for backend in fleet.pools["p"].backends]


@pytest.mark.parametrize(
    ("engine", "configured", "limit"),
    [
        (32, 64, 32),
        (256, 64, 64),
        (64, 64, 64),
        (None, 64, 64),
        (None, 100, 100),
        (256, None, 256),
        (None, None, 64),
    ],
)
def test_the_configured_limit_caps_the_limit_of_the_engine(
    fleet: Fleet, engine: int | None, configured: int | None, limit: int
) -> None:
    fleet.reconfigure(["p"], Bounds(configured))
    fleet.set_health("p", "a", Health(True, State.IDLE, slots=engine))
    assert limits(fleet)[0] == limit
    fleet.reconfigure(["p"], Bounds())
    fleet.reconfigure(["p"], Bounds(configured))
    assert limits(fleet)[0] == limit, "a reload in either order gives the same limit"


def test_the_limit_of_a_backend_follows_its_engine_below_a_configured_one(fleet: Fleet) -> None:
    assert limits(fleet) == [64, 64]
    fleet.set_health("p", "a", Health(True, State.IDLE, slots=256))
    assert limits(fleet) == [256, 64]
    fleet.set_health("p", "a", Health(False, State.UNREACHABLE))
    assert limits(fleet) == [256, 64], "a silent agent takes nothing back"
    fleet.reconfigure(["p"], Bounds(100))
    assert limits(fleet) == [100, 100]
    fleet.reconfigure(["p"], Bounds())
    assert limits(fleet) == [256, 64]


async def test_a_reported_limit_wakes_those_who_wait(fleet: Fleet) -> None:
    fleet.set_health("p", "b", AWAY)
    (a, _) = fleet.pools["p"].backends
    for _ in range(64):
        fleet.begin(a, "client")
    ticket, _ = fleet.wait("p", "client", 5.0)
    assert not ticket.waiter.done()
    fleet.set_health("p", "a", Health(True, State.IDLE, slots=65))
    assert ticket.waiter.done()
    fleet.leave("p", ticket)
