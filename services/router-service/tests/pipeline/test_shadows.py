"""Copies of requests: which ones, when, in which slots, and that nothing of the copied request changes."""

import asyncio
import cProfile
import pstats
from random import Random
from time import perf_counter
from typing import Any

import pytest

from harness.fake_upstream import Script
from harness.shadowed_pipeline import DONE, SILENT, STREAM, TOKEN, WHOLE, Client, World, run, until
from router_service.accounting.cache_homes import CacheHomes
from router_service.accounting.completion import Completion
from router_service.pipeline.ends import End
from router_service.pipeline.engine_request import engine_request
from router_service.pipeline.pipeline import Pipeline
from router_service.pipeline.settings import Settings
from router_service.ports import Endpoint, Health
from router_service.records.ring import Ring
from router_service.routing.conditions import make
from router_service.routing.policy import Policy
from router_service.routing.rules import Group, Rule, Shadow, Target
from router_service.routing.session_sources import SessionSources
from router_service.routing.vocabulary import NotCopied, Outcome, State
from router_service.telemetry.request_metrics import RequestMetrics
from router_service.telemetry.spans import SpanSink


def test_a_copy_is_sent_after_its_request_with_the_same_body_and_no_key() -> None:
    async def scenario(world: World) -> None:
        client = await world.ask()
        assert client.data == TOKEN + DONE + b"(end)"

    world = run(scenario)
    assert world.hosts() == ["live", "next"]
    request, copy = world.upstream.requests
    assert request.split(b"\r\n\r\n")[1] == copy.split(b"\r\n\r\n")[1]
    assert b"x-request-id: id-0-shadow\r\n" in copy
    assert b"sk-secret" not in copy
    assert [job.outcome for job in (*world.finished, *world.copies)] == [Outcome.OK, Outcome.OK]
    assert world.finished[0].shadow is not None
    assert world.copies[0].shadow_of == "id-0"
    assert world.copies[0].client_id == ""
    assert not any(name == b"authorization" for name, _ in world.copies[0].inbound.headers)
    assert world.copies[0].kept is None, "nothing of the answer is kept for a resume"


def test_the_request_id_alone_decides_and_the_share_is_the_percent() -> None:
    shadow = Shadow("next", 20.0)
    ids = [f"request-{number}" for number in range(4000)]
    taken = [one for one in ids if shadow.takes("all", one)]
    assert taken == [one for one in ids if Shadow("next", 20.0).takes("all", one)]
    assert 700 < len(taken) < 900
    assert set(taken) < {one for one in ids if Shadow("next", 40.0).takes("all", one)}, "raising keeps them"
    assert not any(Shadow("next", 0.0).takes("all", one) for one in ids)
    assert all(Shadow("next", 100.0).takes("all", one) for one in ids)

    async def scenario(world: World) -> None:
        for number in range(40):
            await world.ask(number=number)
            await world.settle()

    world = run(scenario, percent=20.0)
    expected = [f"id-{n}" for n in range(40) if shadow.takes("all", f"id-{n}")]
    assert [job.shadow_of for job in world.copies] == expected


@pytest.mark.parametrize(
    ("because", "asked", "settings"),
    [
        (NotCopied.STATEFUL, {"path": "/v1/responses", "input": "x"}, {}),
        (NotCopied.STATEFUL, {"path": "/v1/responses", "store": False, "previous_response_id": "resp_1"}, {}),
        (NotCopied.MODEL_NOT_SERVED, {"model": "only-live"}, {}),
        (NotCopied.BODY_SIZE, {}, {"shadow_body_bytes": 20}),
    ],
)
def test_a_request_that_rules_a_copy_out_is_counted(because, asked, settings) -> None:
    async def scenario(world: World) -> None:
        await world.ask(**asked)

    world = run(scenario, **settings)
    assert world.left_out == [("next", because)]
    assert world.hosts() == ["live"]
    assert world.finished[0].shadow.left_out is because


def test_a_response_that_is_not_stored_is_copied() -> None:
    async def scenario(world: World) -> None:
        await world.ask(path="/v1/responses", input="x", store=False)

    assert run(scenario).hosts() == ["live", "next"]


def test_copies_have_their_own_slots_and_wait_for_none() -> None:
    async def scenario(world: World) -> None:
        world.play("next", SILENT)
        for number in range(5):
            client = await world.ask(number=number)
            assert client.data.endswith(b"(end)")
        assert len(world.pipeline.shadows.running) == 2
        assert world.left_out == [("next", NotCopied.NO_SLOT)] * 3
        world.pipeline.shadows.stop()

    world = run(scenario, shadow_slots=2)
    assert [job.queued_seconds for job in world.finished] == [0.0] * 5
    assert [job.queue_position for job in world.finished] == [None] * 5


def test_a_pool_that_is_full_or_not_ready_gets_no_copy() -> None:
    async def scenario(world: World) -> None:
        backend = world.fleet.pools["next"].backends[0]
        world.fleet.begin(backend, "client")
        await world.ask()
        world.fleet.end(backend, None, "client")
        world.ready("next", False)
        await world.ask()

    world = run(scenario, limit=1)
    assert world.left_out == [("next", NotCopied.POOL_FULL), ("next", NotCopied.NONE_READY)]
    assert world.hosts() == ["live", "live"]


def test_copies_count_against_the_limit_of_their_backend_and_no_request_waits_for_them() -> None:
    async def scenario(world: World) -> None:
        world.play("next", SILENT, SILENT, WHOLE)
        await world.ask(number=1)
        await world.ask(number=2)
        assert world.left_out == [("next", NotCopied.POOL_FULL)], "one slot, one copy"
        assert not world.fleet.must_wait("next", "client", "", perf_counter())
        assert world.fleet.pools["next"].backends[0].in_flight == 0
        world.pipeline.shadows.stop()

    run(scenario, limit=1)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (None, Outcome.UPSTREAM_ERROR),
        (Script(500, (), (b"no",)), Outcome.UPSTREAM_ERROR),
        (Script(503, (), (b"no",)), Outcome.UPSTREAM_ERROR),
        (Script(400, (), (b'{"detail":"no"}',)), Outcome.CLIENT_ERROR),
        (Script(200, STREAM, (TOKEN,), "break"), Outcome.TRUNCATED),
        (Script(200, STREAM, (b'data: {"error":{"message":"dead"}}\n\n',)), Outcome.UPSTREAM_ERROR),
        (Script(200, STREAM, (TOKEN,)), Outcome.TRUNCATED),
        (Script(200, (), (b"x" * 3_000_000,)), Outcome.OK),
    ],
)
def test_a_failing_copy_is_tried_once_and_harms_nothing(script, outcome) -> None:
    async def scenario(world: World) -> None:
        if script is None:
            del world.upstream.scripts["http://next:1"]
        else:
            world.play("next", script)
        for number in range(6):
            client = await world.ask(number=number)
            assert client.data == TOKEN + DONE + b"(end)"
            await world.settle()

    world = run(scenario)
    assert [job.outcome for job in world.copies] == [outcome] * 6
    assert [len(job.attempts) for job in world.copies] == [1] * 6
    assert [job.outcome for job in world.finished] == [Outcome.OK] * 6


def test_the_copy_ends_with_its_client_and_goes_on_after_a_whole_answer() -> None:
    async def scenario(world: World) -> None:
        world.play("live", SILENT, WHOLE)
        world.play("next", SILENT)
        client = Client()
        task = world.send(client, number=1)
        await until(lambda: len(world.upstream.requests) == 2)
        client.leave()
        await task
        await world.settle()
        assert [job.outcome for job in world.copies] == [Outcome.CANCELLED]
        await world.ask(number=2)
        assert len(world.pipeline.shadows.running) == 1, "its own request is answered"
        world.pipeline.shadows.stop()

    world = run(scenario)
    assert [job.detail for job in world.copies] == [
        "the client of the request left",
        "the router is shutting down",
    ]


def test_a_copy_that_is_stopped_after_its_answer_leaves_the_returned_connection_alone(monkeypatch) -> None:
    connections = []

    async def scenario(world: World) -> None:
        connect, give_back = world.upstream.connect, world.upstream.give_back

        async def remembered(url: str, timeout_seconds: float) -> Any:
            connection = await connect(url, timeout_seconds)
            if "next" in url:
                connections.append(connection)
            return connection

        def returned(url: str) -> None:
            give_back(url)
            if "next" in url:  # Runs when the answer is whole, before the copy's task continues.
                asyncio.get_running_loop().call_soon(world.pipeline.shadows.stop)

        monkeypatch.setattr(world.upstream, "connect", remembered)
        monkeypatch.setattr(world.upstream, "give_back", returned)
        await world.ask()

    world = run(scenario)
    assert [connection.aborted for connection in connections] == [False], "another request may use it"
    assert [attempt.outcome for attempt in world.copies[0].attempts] == [End.COMPLETE]


def test_a_copy_that_is_stopped_while_it_connects_has_no_complete_attempt(monkeypatch) -> None:
    async def scenario(world: World) -> None:
        connect, connecting = world.upstream.connect, asyncio.Event()

        async def never(url: str, timeout_seconds: float) -> Any:
            if "next" in url:
                connecting.set()
                await asyncio.sleep(3600)
            return await connect(url, timeout_seconds)

        monkeypatch.setattr(world.upstream, "connect", never)
        await world.ask()
        await connecting.wait()
        world.pipeline.shadows.stop()

    world = run(scenario)
    assert [attempt.outcome for attempt in world.copies[0].attempts] == [End.CLIENT_GONE]
    assert world.copies[0].outcome is Outcome.CANCELLED


def test_a_draining_router_drops_its_copies_at_once_and_begins_no_more() -> None:
    async def scenario(world: World) -> None:
        world.play("next", SILENT)
        await world.ask(number=1)
        first = world.send(number=2)
        await until(lambda: len(world.pipeline.shadows.running) == 2)
        world.pipeline.shadows.stop()
        await first
        await world.ask(number=3)

    world = run(scenario)
    assert world.left_out[-1] == ("next", NotCopied.DRAINING)
    assert [job.outcome for job in world.finished] == [Outcome.OK] * 3
    assert all(job.outcome is Outcome.CANCELLED for job in world.copies)


def test_a_large_shadow_pool_is_used_without_counting_in_its_order() -> None:
    async def scenario(world: World) -> None:
        names = [f"next{number}" for number in range(12)]
        world.fleet.set_endpoints("next", [Endpoint(name, f"http://{name}:1", "") for name in names])
        for name in names:
            world.fleet.set_health("next", name, Health(True, State.IDLE))
            world.play(name, WHOLE)
        standing = world.fleet.pools["next"].standing
        assert standing is not None
        free = standing.free
        for number in range(6):
            await world.ask(number=number)
            await world.settle()
        assert standing.free == free
        world.fleet.set_endpoints("next", [Endpoint("next", "http://next:1", "")])

    world = run(scenario)
    assert [job.outcome for job in world.copies] == [Outcome.OK] * 6
    assert all(host.startswith("next") for host in world.hosts()[1::2])


def calls_of_requests(*rules: Rule) -> tuple[int, int]:
    """Return how many Python functions 50 requests call, from body to record, and how many of them are of shadows."""

    async def count() -> tuple[int, int]:
        world = World()
        policy = Policy(world.pipeline.settings.policy.pools, rules, "live")
        metrics = RequestMetrics()
        done = Completion(Ring(100), metrics, lambda line: None, SpanSink(None), 2.0, CacheHomes(10.0))
        pipeline = Pipeline(
            Settings(policy, 3, frozenset({502}), 0.05, SessionSources((b"x-session-id",)), 10**6),
            world.fleet, world.upstream, None, done, metrics.observe_decide, Random(1),
        )  # fmt: skip
        world.pipeline = pipeline
        await world.ask()
        profile = cProfile.Profile()
        profile.enable()
        for number in range(50):
            await world.ask(number=number)
        profile.disable()
        entries = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
        own = [(file, entry[1]) for (file, _, _), entry in entries if "router_service" in file]
        of_shadows = sum(calls for file, calls in own if "shadow" in file.rsplit("/", 1)[-1])
        return sum(calls for file, calls in own if not file.endswith("fake.py")), of_shadows

    return asyncio.run(count())


def test_a_request_without_a_shadow_costs_no_call_more(monkeypatch: pytest.MonkeyPatch) -> None:
    # An answer that comes late on a busy machine counts as thinking, which is a call more.
    monkeypatch.setattr("router_service.telemetry.request_metrics.LEAST_THINKING_SECONDS", 60.0)
    unmatched = Group("all", (make("stream", False),))
    plain = Rule("all", Group("all", ()), (Target("live"),))
    without, with_other = (
        calls_of_requests(Rule("other", unmatched, (Target("live"),), shadow=shadow), plain)
        for shadow in (None, Shadow("next", 100.0))
    )
    assert without == with_other
    assert without[1] == 0
    copied = Rule("all", Group("all", ()), (Target("live"),), shadow=Shadow("next", 100.0))
    assert calls_of_requests(copied)[1] > 50


def test_an_error_while_copying_neither_ends_the_request_nor_keeps_its_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(*_: object) -> bool:
        raise KeyError("a mistake")

    monkeypatch.setattr("router_service.pipeline.shadows.keeps_state", wrong)
    reported: list[dict[str, Any]] = []

    async def scenario(world: World) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        client = await world.ask()
        assert client.data == TOKEN + DONE + b"(end)"
        assert [member.view.in_flight for member in world.fleet.members()] == [0, 0]

    world = run(scenario)
    assert world.hosts() == ["live"]
    assert world.finished[0].shadow is None, "its record names no copy"
    assert [(one["message"], repr(one["exception"])) for one in reported] == [
        ("request id-0 was not copied", "KeyError('a mistake')")
    ]


@pytest.mark.parametrize("copied", [False, True])
def test_an_error_before_an_attempt_is_sent_does_not_keep_its_slot(
    monkeypatch: pytest.MonkeyPatch, copied: bool
) -> None:
    """The attempt is counted in when its backend is chosen, before the request for the engine is made."""
    made = engine_request

    def wrong(*arguments: Any) -> Any:
        if arguments[3].request_id.endswith("-shadow") == copied:
            raise KeyError("a mistake")
        return made(*arguments)

    monkeypatch.setattr("router_service.pipeline.attempts.engine_request", wrong)

    async def scenario(world: World) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        for number in range(6):  # more than the backend has slots
            if copied:
                await world.ask(number=number)
            else:
                with pytest.raises(KeyError):
                    await world.ask(number=number)
            await world.settle()
        assert not world.pipeline.shadows._counts.running

    run(scenario, percent=100.0 if copied else 0.0)
