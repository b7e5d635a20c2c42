"""The backend of a continuation, its cost in the retry budget, and the stream after a refused continuation."""

import pytest

from harness.fake_upstream import Script
from harness.stacks.resumed_streams import DONE, GREEDY, STREAM, Backends, answered, events, played
from router_service.pipeline.job import Job
from router_service.ports import Health
from router_service.routing.vocabulary import Outcome, State


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (400, (), b'{"detail":"too long"}'),
        (503, (), b"busy"),
        (200, ((b"content-type", b"application/json"),), b'{"choices":[]}'),
        (200, ((b"content-type", b"application/json"),), b"x" * 2_000_000),
        (200, (*STREAM, (b"content-encoding", b"gzip")), b"\x1f\x8b"),
    ],
)
def test_an_engine_that_refuses_to_continue_leaves_no_byte_in_the_stream(
    status: int, headers, body: bytes
) -> None:
    refusal = Script(status, headers, (body,))
    client, job, _ = answered(GREEDY, events(True, ["A", " b"]), refusal)
    assert client.text == "A b"
    assert client.ends == ["abort"]
    assert client.data.split(b"\n\n")[-2].startswith(b'data: {"error"')
    assert body[:20] not in client.data
    assert job.outcome is Outcome.TRUNCATED


def whole(texts: list[str]) -> Script:
    return Script(200, STREAM, (*events(True, texts, "stop"), DONE))


SILENT_DEATH = Script(200, STREAM, (), "break")
DEATH = Script(200, STREAM, tuple(events(True, ["A", " b"])), "break")


def ends(job: Job) -> list[tuple[str, str]]:
    return [(attempt.backend, str(attempt.outcome)) for attempt in job.attempts]


def test_a_continuation_never_goes_where_the_request_has_failed_before() -> None:
    """The first backend died before its first byte, the second during its response; the third has the highest load."""
    client, job, _ = played(
        GREEDY, Backends([[SILENT_DEATH], [DEATH], [whole([" b", " c"])]], loads=(0, 1, 9))
    )
    assert ends(job) == [("b0", "broken"), ("b1", "broken"), ("b2", "complete")]
    assert client.text == "A b c"
    assert job.outcome is Outcome.OK


@pytest.mark.parametrize("no", [Script(503, (), (b"busy",)), SILENT_DEATH])
def test_a_backend_that_does_not_begin_the_continuation_is_followed_by_another(no: Script) -> None:
    client, job, _ = played(GREEDY, Backends([[DEATH], [no], [whole([" b", " c"])]], loads=(0, 1, 9)))
    assert [backend for backend, _ in ends(job)] == ["b0", "b1", "b2"]
    assert client.text == "A b c"
    assert job.resumes == ["failed", "ok"]


def test_a_continuation_that_the_client_has_something_of_is_not_continued_again() -> None:
    dies_too = Script(200, STREAM, tuple(events(True, [" b", " c"])), "break")
    client, job, _ = played(GREEDY, Backends([[DEATH], [dies_too], [whole([" b", " c"])]], loads=(0, 1, 9)))
    assert [backend for backend, _ in ends(job)] == ["b0", "b1"]
    assert client.ends == ["abort"]
    assert job.outcome is Outcome.TRUNCATED


def test_attempts_are_bounded_while_a_stream_is_continued_too() -> None:
    client, job, _ = played(
        GREEDY, Backends([[DEATH], [SILENT_DEATH], [whole([" b"])]], loads=(0, 1, 9)), max_attempts=2
    )
    assert [backend for backend, _ in ends(job)] == ["b0", "b1"]
    assert client.ends == ["abort"]


@pytest.mark.parametrize(("retries", "goes_on"), [(0, False), (1, True)])
def test_what_follows_an_answer_of_a_living_backend_spends_the_budget(retries: int, goes_on: bool) -> None:
    """The continuation differed from the client's text: the engine still works, so a further attempt adds load."""
    other = Script(200, STREAM, (*events(True, [" b", "d"], "stop"), DONE))
    first = Script(200, STREAM, tuple(events(True, ["A", " b", "c"])), "break")
    client, job, _ = played(GREEDY, Backends([[first], [other, whole(["!"])]], retries=retries, loads=(0, 1)))
    assert [end for _, end in ends(job)] == ["broken", "diverged", *(["complete"] if goes_on else [])]
    assert client.ends == ["finish" if goes_on else "abort"]


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2)])
def test_an_answer_that_is_refused_here_spends_the_budget(retries: int, attempts: int) -> None:
    """503 with a body that has no end: the backend lives."""
    endless = Script(503, (), (b"x" * 200_000, b"x" * 200_000), "silence")
    _, job, _ = played(GREEDY, Backends([[endless], [whole(["A"])]], retries=retries, loads=(0, 1)))
    assert [end for _, end in ends(job)] == ["malformed", "complete"][:attempts]


@pytest.mark.parametrize(
    ("state", "goes_on"), [(State.UNREACHABLE, True), (State.STUCK, True), (State.SATURATED, False)]
)
def test_a_timeout_spends_the_budget_unless_nothing_works_there_any_more(state: State, goes_on: bool) -> None:
    silent = Script(200, STREAM, (), "silence")
    _, job, _ = played(
        GREEDY,
        Backends([[silent], [whole(["A"])]], retries=0, loads=(0, 1)),
        first_token_seconds=0.1,
        meanwhile=lambda fleet: fleet.set_health("p", "b0", Health(state is State.SATURATED, state)),
    )
    assert [end for _, end in ends(job)] == ["first_token_timeout", *(["complete"] if goes_on else [])]
