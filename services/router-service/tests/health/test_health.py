"""Probes are understood, sweeps reach every backend, one lost probe is not an outage."""

import asyncio
from collections.abc import Iterable

import pytest

from router_service.health.http_probe import HttpProbe, read_health
from router_service.health.loop import HealthLoop
from router_service.health.scripted_probe import ScriptedProbe
from router_service.ports import Health
from router_service.routing.vocabulary import State

READY = Health(True, State.IDLE)
LOST = Health(False, State.UNREACHABLE, detail="ReadTimeout: ")
REFUSED = Health(False, State.UNREACHABLE, detail="ConnectError: refused")


class Fleet:
    def __init__(self) -> None:
        self.found: list[tuple[str, str, Health]] = []
        self.away: dict[str, float | None] = {}

    def endpoints(self) -> Iterable[tuple[str, str, str, str]]:
        return [("p", "a", "http://a", "http://a:8000"), ("p", "b", "http://b", "http://b:8000")]

    def set_round_trip(self, pool: str, backend: str, seconds: float | None) -> None:
        self.away[backend] = seconds

    def set_health(self, pool: str, backend: str, health: Health) -> None:
        self.found.append((pool, backend, health))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"", Health(True, State.UNKNOWN)),
        (200, b'{"state":"working","engine":{"waiting":3}}', Health(True, State.WORKING, 3.0)),
        (503, b'{"state":"stuck"}', Health(False, State.STUCK, detail="status 503")),
        (503, b"<html>", Health(False, State.UNKNOWN, detail="status 503")),
        (200, b'{"state":"great"}', Health(True, State.UNKNOWN)),
        (200, b'{"state":["x"]}', Health(True, State.UNKNOWN)),
    ],
)
def test_an_answer_is_read_for_what_it_says(status: int, body: bytes, expected: Health) -> None:
    assert read_health(status, body) == expected


async def test_the_first_sweep_tells_everything_it_finds() -> None:
    fleet = Fleet()
    loop = HealthLoop(fleet, ScriptedProbe({"http://a": READY}), 1.0)
    await loop.sweep()
    assert {(b, h.ready) for _, b, h in fleet.found} == {("a", True), ("b", False)}
    assert loop.swept.is_set()


async def test_a_backend_that_cannot_be_measured_keeps_nobodys_health_waiting() -> None:
    fleet, never = Fleet(), asyncio.Event()

    async def round_trip(url: str) -> float | None:
        if url == "http://a:8000":
            await never.wait()
        return 0.002

    loop = HealthLoop(
        fleet, ScriptedProbe({"http://a": READY, "http://b": READY}), 1.0, round_trip=round_trip
    )
    sweep = asyncio.create_task(loop.sweep())
    await asyncio.sleep(0.01)
    assert {(b, h.ready) for _, b, h in fleet.found} == {("a", True), ("b", True)}
    assert fleet.away == {"b": 0.002}
    never.set()
    await sweep
    assert fleet.away == {"a": 0.002, "b": 0.002}


async def test_a_lost_probe_counts_only_in_a_row_and_a_refused_one_at_once() -> None:
    fleet, probe = Fleet(), ScriptedProbe({"http://a": READY, "http://b": READY})
    loop = HealthLoop(fleet, probe, 1.0, failures=3)
    await loop.sweep()
    fleet.found.clear()
    probe.answers["http://a"] = LOST
    await loop.sweep()
    await loop.sweep()
    assert [b for _, b, _ in fleet.found] == ["b", "b"]
    await loop.sweep()
    assert ("p", "a", LOST) in fleet.found
    probe.answers["http://b"] = REFUSED
    await loop.sweep()
    assert ("p", "b", REFUSED) in fleet.found


async def test_nobody_listening_is_unreachable_and_no_exception() -> None:
    probe = HttpProbe(0.5)
    health = await probe.probe("http://127.0.0.1:1/readyz")
    assert health.state is State.UNREACHABLE
    assert health.detail.startswith("ConnectError")
    await probe.close()


async def test_a_hint_probes_that_backend_once_and_believes_only_the_probe() -> None:
    fleet, probe = Fleet(), ScriptedProbe({"http://a": READY, "http://b": READY})
    loop = HealthLoop(fleet, probe, 60.0)
    await loop.sweep()
    fleet.found.clear()
    probe.asked.clear()
    loop.look("p", "a")
    loop.look("p", "a")
    loop.look("p", "nobody")
    await asyncio.sleep(0.01)
    assert probe.asked == ["http://a"]
    assert fleet.found == [("p", "a", READY)], "somebody else's bad news ejects nobody here"
    probe.answers["http://a"] = REFUSED
    loop.look("p", "a")
    await asyncio.sleep(0.01)
    assert fleet.found[-1] == ("p", "a", REFUSED)
