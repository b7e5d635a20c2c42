"""Probes are understood and spread, all backends are probed, one lost probe is not an outage."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest

from harness.fake_upstream import FakeUpstream, Script
from harness.scripted_probe import ScriptedProbe
from router_service.health.http_probe import HttpProbe, read_health
from router_service.health.loop import HealthLoop, Pace
from router_service.ports import Health
from router_service.routing.vocabulary import State
from router_service.upstream.pool import UpstreamPool

READY = Health(True, State.IDLE)
LOST = Health(False, State.UNREACHABLE, detail="no answer within 1 s")
REFUSED = Health(False, State.UNREACHABLE, detail="ConnectFailed: refused", refused=True)
OFTEN, NEVER = 0.02, 3600.0


class Fleet:
    def __init__(self, *names: str) -> None:
        self.names = list(names) or ["a", "b"]
        self.found: list[tuple[str, str, Health]] = []
        self.away: dict[str, float | None] = {}

    def endpoints(self) -> Iterable[tuple[str, str, str, str]]:
        return [("p", name, f"http://{name}", f"http://{name}:8000") for name in self.names]

    def set_round_trip(self, pool: str, backend: str, seconds: float | None) -> None:
        self.away[backend] = seconds

    def set_health(self, pool: str, backend: str, health: Health) -> None:
        self.found.append((pool, backend, health))

    def of(self, backend: str) -> list[Health]:
        return [health for _, name, health in self.found if name == backend]


@contextlib.asynccontextmanager
async def probing(loop: HealthLoop) -> AsyncIterator[None]:
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (the conditions have no event)
            await asyncio.sleep(0.002)


async def answered(probe: HttpProbe, url: str) -> Health:
    found: asyncio.Future[Health] = asyncio.get_running_loop().create_future()
    probe.begin(url, found.set_result)
    return await asyncio.wait_for(found, 30)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"", Health(True, State.UNKNOWN)),
        (200, b'{"state":"working","engine":{"waiting":3}}', Health(True, State.WORKING, 3.0)),
        (200, b'{"state":"idle","engine":{"max_num_seqs":256}}', Health(True, State.IDLE, slots=256)),
        (200, b'{"state":"idle","engine":{"max_num_seqs":"256"}}', Health(True, State.IDLE)),
        (200, b'{"state":"idle","engine":{"max_num_seqs":0}}', Health(True, State.IDLE)),
        (
            200,
            b'{"state":"idle","engine":{"stores_responses":false}}',
            Health(True, State.IDLE, stores_responses=False),
        ),
        (200, b'{"state":"idle","engine":{"stores_responses":true}}', Health(True, State.IDLE)),
        (503, b'{"state":"stuck"}', Health(False, State.STUCK, detail="status 503")),
        (503, b"<html>", Health(False, State.UNKNOWN, detail="status 503")),
        (200, b'{"state":"great"}', Health(True, State.UNKNOWN)),
        (200, b'{"state":["x"]}', Health(True, State.UNKNOWN)),
    ],
)
def test_an_answer_is_read_for_what_it_says(status: int, body: bytes, expected: Health) -> None:
    assert read_health(status, body) == expected


async def test_the_first_sweep_reports_every_finding() -> None:
    fleet = Fleet()
    loop = HealthLoop(fleet, ScriptedProbe({"http://a": READY}), Pace(NEVER))
    async with probing(loop):
        await asyncio.wait_for(loop.swept.wait(), 30)
    assert {(b, h.ready) for _, b, h in fleet.found} == {("a", True), ("b", False)}


async def test_a_backend_that_cannot_be_measured_delays_no_health() -> None:
    fleet, never = Fleet(), asyncio.Event()

    async def round_trip(url: str) -> float | None:
        if url == "http://a:8000":
            await never.wait()
        return 0.002

    loop = HealthLoop(fleet, ScriptedProbe({"http://a": READY, "http://b": READY}), Pace(NEVER), round_trip)
    async with probing(loop):
        await until(lambda: fleet.away == {"b": 0.002})
        assert {(b, h.ready) for _, b, h in fleet.found} == {("a", True), ("b", True)}
        never.set()
        await until(lambda: fleet.away == {"a": 0.002, "b": 0.002})


async def test_a_lost_probe_counts_only_in_a_row_and_a_refused_one_at_once() -> None:
    fleet, probe = Fleet(), ScriptedProbe({"http://a": READY, "http://b": READY})
    loop = HealthLoop(fleet, probe, Pace(OFTEN, failures=3))
    async with probing(loop):
        await until(lambda: fleet.of("a") and fleet.of("b"))
        asked = probe.asked.count("http://a")
        probe.answers["http://a"] = LOST
        await until(lambda: LOST in fleet.of("a"))
        # One probe may have been answered just before the change.
        assert 3 <= probe.asked.count("http://a") - asked <= 4
        assert READY in fleet.of("b")
        probe.answers["http://b"] = REFUSED
        await until(lambda: REFUSED in fleet.of("b"))


async def test_at_most_the_configured_number_of_probes_runs_at_once_and_the_others_follow() -> None:
    names = [f"e{number}" for number in range(100)]
    fleet, probe = Fleet(*names), ScriptedProbe({f"http://{name}": READY for name in names})
    probe.hold = True
    loop = HealthLoop(fleet, probe, Pace(NEVER, max_in_flight=8))
    async with probing(loop):
        await until(lambda: probe.held)
        rounds = 0
        while probe.held:
            assert len(probe.held) == loop.in_flight <= 8
            probe.release()
            rounds += 1
    assert rounds == 13
    assert {name for _, name, _ in fleet.found} == set(names)
    assert loop.swept.is_set()


async def test_probes_are_spread_over_the_interval_and_each_backend_keeps_its_phase() -> None:
    names = [f"e{number}" for number in range(200)]
    fleet, probe = Fleet(*names), ScriptedProbe()
    probe.hold = True
    loop = HealthLoop(fleet, probe, Pace(1.0))
    began: dict[str, list[float]] = {f"http://{name}": [] for name in names}
    at_once = []
    loop._follow(100.0)
    for step in range(401):
        now = 100.0 + step / 100
        loop._begin_due(now)
        for url, _ in probe.held:
            began[url].append(now)
        at_once.append(len(probe.held))
        probe.release()
    assert at_once[0] == 200, "the first probes do not wait"
    assert max(at_once[50:]) <= 12, "2 of 200 per hundredth of the interval, and chance"
    for times in began.values():
        assert 0.49 <= times[1] - times[0] <= 1.51
        gaps = [later - earlier for earlier, later in pairwise(times[1:])]
        assert all(abs(gap - 1.0) < 0.015 for gap in gaps), times


async def test_a_backend_that_joins_is_probed_at_once_and_one_that_leaves_no_more() -> None:
    fleet, probe = Fleet("a"), ScriptedProbe({"http://a": READY, "http://b": READY})
    loop = HealthLoop(fleet, probe, Pace(NEVER))
    async with probing(loop):
        await until(lambda: fleet.of("a"))
        fleet.names = ["b"]
        loop.hurry()
        await until(lambda: fleet.of("b"))
        loop.look("p", "a")
        assert probe.forgotten == ["http://a"]
        assert probe.asked == ["http://a", "http://b"]


async def test_an_answer_with_an_entity_tag_is_only_confirmed_from_then_on() -> None:
    first = Script(headers=((b"etag", b'W/"x"'),), pieces=(b'{"state":"working","engine":{"waiting":3}}',))
    upstream = FakeUpstream(
        {"http://a:1": deque([first, Script(304), Script(503, pieces=(b'{"state":"stuck"}',))])}
    )
    probe = HttpProbe(upstream, 30.0)
    health = await answered(probe, "http://a:1/readyz")
    assert health == Health(True, State.WORKING, 3.0)
    assert await answered(probe, "http://a:1/readyz") is health
    assert b'if-none-match: W/"x"\r\n' in upstream.requests[1]
    assert (await answered(probe, "http://a:1/readyz")).state is State.STUCK
    await answered(probe, "http://a:1/readyz")
    assert b"if-none-match" not in upstream.requests[3], "an answer that was not 200 cannot be confirmed"


async def test_a_connection_that_the_backend_had_closed_is_dialled_again_and_is_no_failure() -> None:
    upstream = FakeUpstream({"http://a:1": deque([Script(), Script(ending="stale"), Script()])})
    probe = HttpProbe(upstream, 30.0)
    assert (await answered(probe, "http://a:1")).ready
    assert (await answered(probe, "http://a:1")).ready
    assert [request.split(b"\r\n")[0] for request in upstream.requests] == [b"GET / HTTP/1.1"] * 3


@pytest.mark.parametrize("ending", ["silence", "break"])
async def test_a_probe_without_a_whole_answer_is_unreachable_and_not_refused(ending: Any) -> None:
    probe = HttpProbe(FakeUpstream({"http://a:1": deque([Script(ending=ending)])}), 0.05)
    health = await answered(probe, "http://a:1/health")
    assert (health.state, health.refused) == (State.UNREACHABLE, False)


async def test_an_endless_answer_is_cut_and_counts_by_its_status() -> None:
    endless = Script(pieces=(b"x" * 40_000,) * 3)
    probe = HttpProbe(FakeUpstream({"http://a:1": deque([endless])}), 30.0)
    assert await answered(probe, "http://a:1") == Health(True, State.UNKNOWN)


async def test_nobody_listening_is_refused_and_no_exception() -> None:
    probe = HttpProbe(UpstreamPool(), 5.0)
    health = await answered(probe, "http://127.0.0.1:1/readyz")
    assert (health.state, health.refused) == (State.UNREACHABLE, True)
    await probe.close()


async def test_a_hint_probes_that_backend_once_and_believes_only_the_probe() -> None:
    fleet, probe = Fleet(), ScriptedProbe({"http://a": READY, "http://b": READY})
    loop = HealthLoop(fleet, probe, Pace(NEVER))
    async with probing(loop):
        await asyncio.wait_for(loop.swept.wait(), 30)
        fleet.found.clear()
        probe.asked.clear()
        loop.look("p", "a")
        loop.look("p", "a")
        loop.look("p", "nobody")
        await until(lambda: fleet.found)
        assert probe.asked == ["http://a"]
        assert fleet.found == [("p", "a", READY)], "another replica's bad news ejects no backend here"
        probe.answers["http://a"] = REFUSED
        loop.look("p", "a")
        await until(lambda: fleet.found[-1] == ("p", "a", REFUSED))


async def test_a_hint_during_a_probe_probes_once_more() -> None:
    fleet, probe = Fleet("a"), ScriptedProbe({"http://a": READY})
    probe.hold = True
    loop = HealthLoop(fleet, probe, Pace(NEVER))
    async with probing(loop):
        await until(lambda: probe.held)
        probe.answers["http://a"] = REFUSED
        loop.look("p", "a")
        loop.look("p", "a")
        probe.release()
        assert probe.asked == ["http://a"] * 2, "the first answer may be older than the trouble"
        probe.release()
    assert fleet.of("a") == [REFUSED, REFUSED]


async def test_a_probe_expires_although_the_timer_was_set_for_an_earlier_one() -> None:
    scripts = {"http://a:1": deque([Script()]), "http://b:1": deque([Script(ending="silence")])}
    probe = HttpProbe(FakeUpstream(scripts), 0.05)
    assert (await answered(probe, "http://a:1")).ready
    await asyncio.sleep(0.03)
    health = await answered(probe, "http://b:1")
    assert (health.state, health.refused) == (State.UNREACHABLE, False)


async def test_a_probe_that_begins_at_an_expiry_does_not_delay_the_next_expiry() -> None:
    urls = [f"http://{name}:1" for name in "abc"]
    probe = HttpProbe(FakeUpstream({url: deque([Script(ending="silence")]) for url in urls}), 0.5)
    loop = asyncio.get_running_loop()
    ended: list[str] = []
    after_b: asyncio.Future[list[str]] = loop.create_future()
    probe.begin(urls[0], lambda health: probe.begin(urls[2], lambda health: ended.append("c")))
    await asyncio.sleep(0.1)
    probe.begin(urls[1], lambda health: loop.call_soon(lambda: after_b.set_result(list(ended))))
    assert await asyncio.wait_for(after_b, 30) == [], "b is due 0.4 s before c"
    await probe.close()


async def test_a_shorter_timeout_after_a_reload_does_not_wait_for_the_earlier_timer() -> None:
    silent = {f"http://{name}:1": deque([Script(ending="silence")]) for name in "ab"}
    probe = HttpProbe(FakeUpstream(silent), 3600.0)
    probe.begin("http://a:1", lambda health: None)
    probe.timeout_seconds = 0.01
    assert (await answered(probe, "http://b:1")).state is State.UNREACHABLE
    await probe.close()
