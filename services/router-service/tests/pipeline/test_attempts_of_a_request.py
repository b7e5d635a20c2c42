"""Attempts and retries of a request: each timeout alone, before the first token, and at a lost backend."""

import asyncio
from collections.abc import Callable
from random import Random
from time import perf_counter, time

import orjson
import pytest

from harness.fake_upstream import FakeUpstream, Script
from harness.scripted_request import ANSWERS, DONE, FAR, JSON, NEAR, ROLE, STREAM, TOKEN, Client, play
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.body import MAX_HELD_BYTES
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.job import Job
from router_service.pipeline.line import Bounds
from router_service.pipeline.pipeline import Pipeline
from router_service.pipeline.settings import Settings
from router_service.ports import Health
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Timeouts
from router_service.routing.session_sources import SessionSources
from router_service.routing.vocabulary import Outcome, State


@pytest.mark.parametrize("path", ANSWERS)
async def test_an_engine_that_dies_before_the_first_token_is_replaced_in_every_api(path: str) -> None:
    before, rest = ANSWERS[path]
    played = await play(
        Script(200, STREAM, (before,), "break"), Script(200, STREAM, (before, *rest)), path=path
    )
    assert played.outcomes == ["broken", "complete"]
    assert played.client.data == before + b"".join(rest)
    assert (played.client.status, played.client.ends) == ([200], ["finish"])


@pytest.mark.parametrize("path", ANSWERS)
async def test_first_token_seconds_counts_until_a_token_in_every_api(path: str) -> None:
    before, _ = ANSWERS[path]
    played = await play(
        Script(200, STREAM, (before,), "silence"), timeouts=Timeouts(FAR, NEAR, FAR, FAR), path=path
    )
    assert played.outcomes == ["first_token_timeout"]
    assert played.client.status == [504]
    assert played.seconds >= NEAR


@pytest.mark.parametrize("path", ANSWERS)
async def test_idle_seconds_counts_from_the_first_token_in_every_api(path: str) -> None:
    before, rest = ANSWERS[path]
    played = await play(
        Script(200, STREAM, (before, rest[0]), "silence"), timeouts=Timeouts(FAR, FAR, NEAR, FAR), path=path
    )
    assert played.outcomes == ["idle_timeout"]
    assert played.seconds >= NEAR
    assert b"error" in played.client.data
    assert played.client.ends == ["abort"]


async def test_idle_seconds_does_not_count_before_the_first_token() -> None:
    played = await play(Script(200, STREAM, (ROLE,), "silence"), timeouts=Timeouts(FAR, 5 * NEAR, NEAR, FAR))
    assert played.outcomes == ["first_token_timeout"]
    assert played.seconds >= 5 * NEAR


@pytest.mark.parametrize("stream", [True, False])
async def test_total_seconds_ends_a_request_when_no_other_timeout_does(stream: bool) -> None:
    script = Script(200, STREAM if stream else JSON, (TOKEN,), "silence")
    played = await play(script, timeouts=Timeouts(FAR, FAR, FAR, NEAR), stream=stream)
    assert played.outcomes == ["total_timeout"]
    assert played.job.outcome is Outcome.TIMEOUT


async def test_an_unstreamed_answer_has_neither_of_the_streams_timeouts() -> None:
    played = await play(
        Script(200, JSON, (b"{}",), "silence"), timeouts=Timeouts(FAR, NEAR, NEAR, 4 * NEAR), stream=False
    )
    assert played.outcomes == ["total_timeout"]


async def reached(check: Callable[[], bool]) -> None:
    """Wait until ``check`` is true."""
    for _ in range(2_000):
        if check():
            return
        await asyncio.sleep(0.01)
    pytest.fail("not reached within 20 s")


@pytest.mark.parametrize("state", [State.STUCK, State.UNREACHABLE])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_held_request_leaves_a_lost_backend_at_once_and_without_the_budget(
    state: State, stream: bool
) -> None:
    async def lose(fleet: Fleet, pipeline: Pipeline, client: Client) -> None:
        await asyncio.sleep(0.05)
        fleet.set_health("p", "b0", Health(False, state))
        pipeline.leave_lost_backends()

    whole = Script(200, STREAM, (ROLE, TOKEN, DONE)) if stream else Script(200, JSON, (b'{"a":1}',))
    held = Script(200, STREAM, (ROLE,), "silence") if stream else Script(200, JSON, (), "silence")
    played = await play(held, whole, stream=stream, meanwhile=lose)
    assert played.outcomes == ["backend_lost", "complete"]
    assert played.job.attempts[0].detail == f"the backend was found {state}"
    assert played.client.data == b"".join(whole.pieces)


async def test_a_held_request_stays_while_there_is_no_other_backend() -> None:
    async def lose(fleet: Fleet, pipeline: Pipeline, client: Client) -> None:
        await asyncio.sleep(0.05)
        fleet.set_health("p", "b0", Health(False, State.UNREACHABLE))
        pipeline.leave_lost_backends()

    played = await play(
        Script(200, JSON, (), "silence"),
        timeouts=Timeouts(FAR, FAR, FAR, 2 * NEAR),
        stream=False,
        meanwhile=lose,
    )
    assert played.outcomes == ["total_timeout"]


async def test_a_stream_that_has_begun_is_left_alone() -> None:
    async def lose(fleet: Fleet, pipeline: Pipeline, client: Client) -> None:
        await reached(lambda: client.data == TOKEN)
        fleet.set_health("p", "b0", Health(False, State.UNREACHABLE))
        pipeline.leave_lost_backends()
        await asyncio.sleep(0.05)
        assert not client.ends

    played = await play(
        Script(200, STREAM, (TOKEN,), "silence"),
        Script(200, STREAM, (TOKEN, DONE)),
        timeouts=Timeouts(FAR, FAR, 2 * NEAR, FAR),
        meanwhile=lose,
    )
    assert played.outcomes == ["idle_timeout"]


async def test_an_unstreamed_body_that_a_lost_backend_stopped_sending_ends_after_idle_seconds() -> None:
    async def lose(fleet: Fleet, pipeline: Pipeline, client: Client) -> None:
        await reached(lambda: len(client.data) > MAX_HELD_BYTES)
        pipeline.leave_lost_backends()
        fleet.set_health("p", "b0", Health(False, State.UNREACHABLE))
        while not client.ends:
            pipeline.leave_lost_backends()
            await asyncio.sleep(0.02)

    large = Script(200, JSON, (b"[" + b"1," * MAX_HELD_BYTES,), "silence")
    played = await play(
        large,
        Script(200, JSON, (b"{}",)),
        timeouts=Timeouts(FAR, FAR, NEAR, FAR),
        stream=False,
        meanwhile=lose,
    )
    assert played.outcomes == ["idle_timeout"]
    assert (played.client.ends, played.job.outcome) == (["abort"], Outcome.TIMEOUT)
    assert played.seconds >= NEAR


KEEP_ALIVE = b": keep-alive\n\n"


@pytest.mark.parametrize("path", ANSWERS)
async def test_comments_reach_the_client_at_once_and_leave_a_retry_possible(path: str) -> None:
    seen: list[bytes] = []

    async def lose(fleet: Fleet, pipeline: Pipeline, client: Client) -> None:
        await reached(lambda: client.data.count(KEEP_ALIVE) == 2)
        seen.append(client.data)
        fleet.set_health("p", "b0", Health(False, State.STUCK))
        pipeline.leave_lost_backends()

    before, rest = ANSWERS[path]
    held = Script(200, STREAM, (KEEP_ALIVE, before, KEEP_ALIVE), "silence")
    played = await play(held, Script(200, STREAM, (KEEP_ALIVE, before, *rest)), path=path, meanwhile=lose)
    assert seen == [2 * KEEP_ALIVE]
    assert played.outcomes == ["backend_lost", "complete"]
    assert played.client.data == 3 * KEEP_ALIVE + before + b"".join(rest)
    assert (played.client.status, played.client.ends) == ([200], ["finish"])


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize(
    "second",
    [
        Script(503, JSON, (b'{"error":{"message":"busy"}}',)),
        Script(400, JSON, (b'{"error":{"message":"too long"}}',)),
        Script(200, JSON, (b"{}",)),
        Script(200, STREAM, (), "break"),
    ],
)
async def test_a_failure_after_comments_is_one_error_event_in_its_apis_form(
    path: str, second: Script
) -> None:
    async def lose(fleet: Fleet, pipeline: Pipeline, client: Client) -> None:
        await reached(lambda: client.data.count(KEEP_ALIVE) == 1)
        fleet.set_health("p", "b0", Health(False, State.STUCK))
        pipeline.leave_lost_backends()

    played = await play(Script(200, STREAM, (KEEP_ALIVE,), "silence"), second, path=path, meanwhile=lose)
    assert (played.client.status, played.client.ends) == ([200], ["abort"])
    event = played.client.data.removeprefix(KEEP_ALIVE)
    assert event.count(b"\n\n") == 1
    assert event.startswith(
        b"event: error\ndata: " if path in ("/v1/responses", "/v1/messages") else b"data: "
    )
    told = orjson.loads(event.split(b"data: ", 1)[1])
    assert told["error"]["message"]
    assert (told.get("type") == "error") == event.startswith(b"event:")
    assert played.job.cut_off


async def test_a_request_that_the_edge_sends_again_keeps_its_time_limit_and_its_record_says_so() -> None:
    def job(*headers: tuple[bytes, bytes]) -> Job:
        fleet = Fleet(["p"], Bounds(), perf_counter)
        policy = Policy({"p": Pool("p", "least_loaded", ("m",))}, (), "p")
        pipeline = Pipeline(
            Settings(policy, 3, frozenset(), 0.05, SessionSources(), 1000),
            fleet,
            FakeUpstream(),
            None,
            lambda job: None,
            lambda seconds: None,
            Random(1),
        )
        inbound = Inbound.now(INFERENCE_PATHS["/v1/completions"], b"/v1/completions", list(headers))
        found = pipeline.begin(inbound)
        found.set_timeouts(Timeouts(total_seconds=100.0))
        return found

    sent_at = (b"x-edge-start", b"%.6f" % (time() - 30))
    first = job(sent_at, (b"x-envoy-attempt-count", b"1"))
    again = job(sent_at, (b"x-envoy-attempt-count", b"2"))
    wrong_clock = job((b"x-edge-start", b"1"), (b"x-envoy-attempt-count", b"2"))
    assert (first.edge_attempt, again.edge_attempt, wrong_clock.edge_attempt) == (1, 2, 2)
    assert first.deadline - first.inbound.received == pytest.approx(100)
    assert again.deadline - again.inbound.received == pytest.approx(70, abs=1)
    assert wrong_clock.deadline - wrong_clock.inbound.received == pytest.approx(100)
