"""Requests that wait for a pool's first backend: who is called when, and how long the start took."""

import asyncio

import pytest

from router_service.pipeline.ends import not_started, too_many_wait_for_start
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.line import Bounds
from router_service.pipeline.start import Hold
from router_service.ports import Endpoint, Health
from router_service.resilience.fair_queue import QueueFull
from router_service.routing.vocabulary import State

READY, AWAY = Health(True, State.IDLE, slots=2), Health(False, State.UNREACHABLE)


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def fleet(time: Time) -> Fleet:
    hold = Hold(60.0, 3, fallbacks=("other",))
    fleet = Fleet(["p", "other"], Bounds(queue_size=1, holds={"p": hold}), time)
    for pool in fleet.pools:
        name = f"{pool}-engine"
        fleet.set_endpoints(pool, [Endpoint(name, f"http://{name}", f"http://{name}/readyz")])
        fleet.set_health(pool, name, AWAY)
    return fleet


def wait(fleet: Fleet, client: str) -> asyncio.Future[None]:
    ticket, _ = fleet.wait("p", client, 1000.0, size=3)
    fleet.lines["p"].start.awaited(fleet._clock())
    return ticket.waiter


async def test_the_first_backend_takes_as_many_as_it_has_slots_and_clients_take_turns(fleet, time) -> None:
    first, second, other = wait(fleet, "a"), wait(fleet, "a"), wait(fleet, "b")
    assert fleet.held("p") == 3
    time.now += 7
    fleet.set_health("p", "p-engine", READY)
    assert [one.done() for one in (first, second, other)] == [True, False, True]
    assert fleet.held("p") == 0, "the one left waits for a slot"
    assert fleet.lines["p"].start.seconds == 7


async def test_a_client_that_takes_every_slot_gives_way_to_another_one(fleet) -> None:
    waiting = [wait(fleet, "a") for _ in range(3)]
    with pytest.raises(QueueFull):
        wait(fleet, "a")
    wait(fleet, "b")
    assert [one.done() for one in waiting] == [False, False, True]
    wait(fleet, "c")
    assert [one.done() for one in waiting] == [False, True, True]
    with pytest.raises(QueueFull):
        wait(fleet, "d")


async def test_a_fallback_that_becomes_usable_calls_those_who_wait(fleet) -> None:
    waiting = [wait(fleet, "a") for _ in range(3)]
    fleet.set_health("other", "other-engine", READY)
    assert all(one.done() for one in waiting), "they decide again"
    assert fleet.lines["p"].start.measured is None, "the pool itself has not started"


async def test_a_pool_without_a_hold_holds_nothing(fleet) -> None:
    fleet.wait("other", "a", 1000.0)
    assert fleet.held("other") == 0
    with pytest.raises(QueueFull):
        fleet.wait("other", "a", 1000.0)


async def test_the_routers_own_measurement_goes_before_an_agents_report(fleet, time) -> None:
    start = fleet.lines["p"].start
    fleet.set_health("p", "p-engine", Health(False, State.WARMING, start_seconds=41.5))
    assert start.seconds == 41.5
    wait(fleet, "a")
    time.now += 50
    fleet.set_health("p", "p-engine", READY)
    assert start.seconds == 50
    fleet.set_health("p", "p-engine", Health(True, State.IDLE, start_seconds=12.0))
    assert start.seconds == 50


def test_retry_after_is_the_last_start_rounded_up() -> None:
    assert not_started(60, None).retry_after_seconds == 2
    assert not_started(60, 41.2).retry_after_seconds == 42
    assert too_many_wait_for_start(3, 0.0).retry_after_seconds == 1
