"""Where the seam of a continued stream lies, what is sent for it, and what of the continuation is given out."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from time import perf_counter
from typing import Any

import orjson
import pytest

from router_service.openai_api.event_stream import MAX_HELD_BYTES
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.fleet import Bounds, Fleet
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.job import Job
from router_service.pipeline.pipeline import Pipeline
from router_service.pipeline.settings import Settings
from router_service.ports import Endpoint, Health
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Group, Rule, Target
from router_service.routing.vocabulary import Outcome, State
from router_service.upstream.fake import Ending, FakeUpstream, Script

STREAM = ((b"content-type", b"text/event-stream"),)
DONE = b"data: [DONE]\n\n"
RULE = Rule("resumed", Group("all", ()), (Target("p"),), resume=True)
NOT_RESUMED = Rule("plain", Group("all", ()), (Target("p"),))


def events(
    chat: bool, texts: list[str], finish: str | None = None, start: int = 0, name: str = "1"
) -> list[bytes]:
    """One chunk per text with counts as vLLM sends them; the last one with ``finish``."""
    found = []
    if chat:
        found.append({"delta": {"role": "assistant", "content": ""}})
    for number, text in enumerate(texts):
        last = finish if number == len(texts) - 1 else None
        found.append(
            {"delta": {"content": text}, "finish_reason": last}
            if chat
            else {"text": text, "finish_reason": last}
        )
    made = start - (1 if chat else 0)
    lines = []
    for choice in found:
        made += 1
        usage = {"prompt_tokens": 7, "completion_tokens": made, "total_tokens": 7 + made}
        chunk = {"id": name, "created": 1, "model": "m", "choices": [{"index": 0, **choice}], "usage": usage}
        lines.append(b"data: " + orjson.dumps(chunk) + b"\n\n")
    return lines


class Client:
    """Keeps what it is sent."""

    gone = False

    def __init__(self) -> None:
        self.data = b""
        self.ends: list[str] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.starts = 0

    def listen(self, listener) -> None:
        pass

    def start(self, status, headers) -> None:
        self.starts += 1

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers=()) -> None:
        self.ends.append("finish")
        self.trailers = list(trailers)

    def abort(self) -> None:
        self.ends.append("abort")

    async def settled(self) -> None:
        pass

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(e[6:]) for e in self.data.split(b"\n\n") if e.startswith(b"data: {")]

    @property
    def text(self) -> str:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", ())]
        return "".join((c.get("delta", c).get("content") or c.get("text") or "") for c in choices)


def answered(
    body: dict[str, Any],
    first: list[bytes],
    *more: list[bytes] | Script,
    busy: bool = False,
    ending: Ending = "break",
    rule: Rule = RULE,
) -> tuple[Client, Job, list[dict]]:
    """Play ``first`` as a stream that breaks and ``more`` as the continuations; what was asked of the engines."""
    scripts = [
        [Script(200, STREAM, tuple(first), ending)],
        [one if isinstance(one, Script) else Script(200, STREAM, tuple(one)) for one in more],
    ]
    return played(body, scripts, busy=(1,) if busy else (), rule=rule)


def played(
    body: dict[str, Any],
    scripts: list[list[Script]],
    *,
    max_attempts: int = 3,
    retries: int = 3,
    busy: Sequence[int] = (),
    loads: Sequence[int] = (),
    rule: Rule = RULE,
    first_token_seconds: float = 60.0,
    meanwhile: Callable[[Fleet], None] = lambda fleet: None,
) -> tuple[Client, Job, list[dict]]:
    """Play one request on a backend per list of ``scripts``, asked in that order as long as ``loads`` does not say
    otherwise; what was asked of the engines. ``retries`` are what the budget has."""
    asked = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, **body}
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"

    async def play() -> tuple[Client, Job, list[dict]]:
        fleet = Fleet(["p"], Bounds(64, 0, 0.05, retry_ratio=0, retry_minimum=retries), perf_counter)
        names = [f"b{number}" for number in range(len(scripts))]
        fleet.set_endpoints(
            "p", [Endpoint(name, f"http://{name}:1", f"http://{name}:1/health") for name in names]
        )
        for name in names:
            fleet.set_health("p", name, Health(True, State.IDLE))
        upstream = FakeUpstream(
            {f"http://{name}:1": deque(own) for name, own in zip(names, scripts, strict=True)}
        )
        for number, view in enumerate(fleet.pools["p"].backends):
            view.in_flight = 64 if number in busy else loads[number] if loads else 0
        jobs: list[Job] = []
        policy = Policy({"p": Pool("p", "least_loaded", ("m",))}, (rule,), "p")
        policy = replace(policy, timeouts=replace(policy.timeouts, first_token_seconds=first_token_seconds))
        pipeline = Pipeline(
            Settings(policy, max_attempts, frozenset({503}), 0.05, b"x-session-id", 1000), fleet, upstream, None,
            jobs.append, lambda seconds: None, Random(1),
        )  # fmt: skip
        inbound = Inbound.now(INFERENCE_PATHS[path], path.encode(), [(b"te", b"trailers")])
        inbound.body = orjson.dumps(asked)
        client = Client()
        asyncio.get_running_loop().call_later(0.02, meanwhile, fleet)
        await pipeline.handle(inbound, client)
        assert fleet.budget.retrying == 0
        return client, jobs[0], [orjson.loads(r.split(b"\r\n\r\n", 1)[1]) for r in upstream.requests]

    return asyncio.run(play())


CHAT = {"messages": [{"role": "user", "content": "hi"}]}
GREEDY = {**CHAT, "temperature": 0, "max_tokens": 10}


def test_a_greedy_answer_is_continued_from_its_last_whole_word() -> None:
    client, job, sent = answered(
        GREEDY,
        events(True, ["The", " cap", "ital", " of", " Fr"]),
        [*events(True, [" Fr", "ance", "."], "stop", name="2"), DONE],
    )
    assert sent[1]["messages"][-1] == {"role": "assistant", "content": "The capital of"}
    assert (sent[1]["continue_final_message"], sent[1]["add_generation_prompt"]) == (True, False)
    assert sent[1]["max_tokens"] == 6
    assert client.text == "The capital of France."
    assert client.ends == ["finish"]
    assert {chunk["id"] for chunk in client.chunks} == {"1"}
    assert client.chunks[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14}
    assert (job.outcome, job.report.completion_tokens, job.resumes) == (Outcome.OK, 7, ["ok"])


def test_a_tail_that_comes_in_other_pieces_is_swallowed_to_the_letter() -> None:
    client, _, sent = answered(
        {"prompt": "Say", "temperature": 0, "max_tokens": 10},
        events(False, [" one", " tw", "o\n", "\n"]),
        [*events(False, [" two\n\nth", "ree"], "stop", name="2"), DONE],
    )
    assert sent[1]["prompt"] == "Say one"
    assert client.text == " one two\n\nthree"


def test_an_answer_without_a_whole_word_is_made_again_as_it_was_asked() -> None:
    client, _, sent = answered(
        GREEDY, events(True, ["1", "2", ","]), [*events(True, ["1", "2", ",", "3"], "stop"), DONE]
    )
    assert sent[1] == sent[0]
    assert client.text == "12,3"
    assert client.chunks[-1]["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    "more", [{"temperature": 0}, {}, {"stop": ["END"]}, {"temperature": 0, "stop": ["."]}]
)
def test_an_answer_that_broke_before_its_first_text_is_asked_for_again(more: dict[str, Any]) -> None:
    client, job, sent = answered(
        {**CHAT, "max_tokens": 10, **more}, events(True, [""]), [*events(True, [" a", " b"], "stop"), DONE]
    )
    assert sent[1] == sent[0]
    assert client.text == " a b"
    assert client.chunks[-1]["usage"]["completion_tokens"] == 2
    assert job.outcome is Outcome.OK


def test_a_continuation_that_says_something_else_is_dropped_and_the_whole_text_sent() -> None:
    client, job, sent = answered(
        GREEDY,
        events(True, ["A", " b", "c"]),
        [*events(True, [" b", "d"], "stop"), DONE],
        [*events(True, ["!"], "stop"), DONE],
    )
    assert [m["messages"][-1]["content"] for m in sent[1:]] == ["A", "A bc"]
    assert client.text == "A bc!"
    assert [attempt.outcome for attempt in job.attempts] == ["broken", "diverged", "complete"]
    assert [attempt.backend for attempt in job.attempts] == ["b0", "b1", "b1"], "its engine is not to blame"
    assert job.outcome is Outcome.OK


def test_a_continuation_that_ends_inside_the_tail_is_another_answer() -> None:
    client, job, _ = answered(
        GREEDY,
        events(True, ["A", " b", "c"]),
        [*events(True, [" b"], "stop"), DONE],
        [*events(True, ["!"], "stop"), DONE],
    )
    assert client.text == "A bc!"
    assert job.outcome is Outcome.OK


@pytest.mark.parametrize("new", ["\n\nNext", " Next", "Next"])
def test_white_space_at_the_seam_is_neither_lost_nor_doubled_when_sampling(new: str) -> None:
    """A chat template may trim it from the end of the text, and the engine then makes it again."""
    client, _, sent = answered(
        {**CHAT, "max_tokens": 10}, events(True, ["End", ".", "\n\n"]), [*events(True, [new], "stop"), DONE]
    )
    assert sent[1]["messages"][-1]["content"] == "End."
    assert client.text == "End.\n\nNext"


def test_with_stop_sequences_a_greedy_answer_is_made_again_whole() -> None:
    """The engine held back what may begin one, and counted its tokens: only the same request is the same."""
    client, _, sent = answered(
        {**GREEDY, "stop": ["END"]},
        events(True, ["a", " b"], start=3),
        [*events(True, ["a", " b", " c"], "stop"), DONE],
    )
    assert sent[1] == sent[0]
    assert client.text == "a b c"


@pytest.mark.parametrize(
    ("more", "text", "finish"),
    [
        (["ND", " more"], "say E", "stop"),
        (["N", "D"], "say E", "stop"),
        (["NO", "W"], "say ENOW", "length"),
        (["N"], "say EN", "length"),
    ],
)
def test_a_stop_sequence_across_the_seam_ends_a_sampled_answer(
    more: list[str], text: str, finish: str
) -> None:
    client, job, sent = answered(
        {**CHAT, "max_tokens": 10, "stop": ["END", "XX"]},
        events(True, ["say", " E"]),
        [*events(True, more, "length"), DONE],
    )
    assert sent[1]["stop"] == ["END", "XX"]
    assert client.text == text
    assert [c["finish_reason"] for k in client.chunks for c in k["choices"] if c.get("finish_reason")] == [
        finish
    ]
    assert client.data.endswith(DONE)
    assert client.data.count(DONE) == 1
    assert client.ends == ["finish"]
    assert job.outcome is Outcome.OK


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2}, {"tools": [{}]}, {"logprobs": True}, {"logprobs": 0}, {"presence_penalty": 0.5},
        {"repetition_penalty": 1.1}, {"min_tokens": 3}, {"response_format": {"type": "json_object"}},
        {"add_generation_prompt": False}, {"return_token_ids": True},
    ],
)  # fmt: skip
def test_what_cannot_be_continued_in_kind_ends_as_an_error(more: dict[str, Any]) -> None:
    client, job, sent = answered({**GREEDY, **more}, events(True, ["A", " b"]))
    assert len(sent) == 1
    assert client.ends == ["abort"]
    assert b'data: {"error"' in client.data
    assert job.outcome is Outcome.TRUNCATED


def test_a_continuation_that_gets_no_turn_ends_the_begun_answer_as_an_error() -> None:
    """The other engine is at its limit and nobody may wait: a second head never lands in the stream."""
    client, job, sent = answered(GREEDY, events(True, ["A", " b"]), busy=True)
    assert (client.starts, client.ends, len(sent)) == (1, ["abort"], 1)
    assert client.text == "A b"
    assert client.data.count(b'data: {"error"') == 1
    assert job.outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("cut", range(1, 9))
def test_wherever_it_is_cut_the_answer_is_the_uninterrupted_one(cut: int) -> None:
    """An engine that makes the same tokens whatever text is sent along."""
    tokens = ["On", "ce", " upon", " a", " t", "ime", ",", " 4", "2", "."]
    first = events(True, tokens[:cut])
    # What a deterministic engine says after each prefix that the router may send.
    for at in range(cut + 1):
        rest = [*events(True, tokens[at:], "stop", name="2"), DONE]
        client, job, sent = answered({**GREEDY, "max_tokens": 20}, first, rest)
        prefix = sent[1]["messages"][-1]["content"] if len(sent[1]["messages"]) > 1 else ""
        if prefix == "".join(tokens[:at]):
            assert client.text == "".join(tokens)
            assert client.chunks[-1]["usage"]["completion_tokens"] == len(tokens)
            assert job.outcome is Outcome.OK
            return
    pytest.fail("no prefix was sent that the engine could continue")


WHOLE = [*events(True, ["1", "2", ",", "3"], "stop"), DONE]
"""An answer with no word in it: it is made again as it was asked."""


@pytest.mark.parametrize("ending", ["break", "complete"])
@pytest.mark.parametrize("rule", [RULE, NOT_RESUMED], ids=["resumed", "not resumed"])
def test_a_cut_at_any_byte_leaves_whole_events_and_then_the_rest_or_one_error(
    rule: Rule, ending: Ending
) -> None:
    """Also inside an event, and also where the cut is an orderly end (a body that ends with its connection)."""
    stream = b"".join(WHOLE)
    # An orderly end behind `[DONE]` lacks a blank line only.
    enough = len(stream) - (2 if ending == "complete" else 0)
    for cut in range(len(stream) + 1):
        client, job, _ = answered(GREEDY, [stream[:cut]], WHOLE, ending=ending, rule=rule)
        whole = job.outcome is Outcome.OK
        assert whole is (rule.resume or b"\n\n" not in stream[:cut] or cut >= enough), cut
        if cut < enough:
            assert client.data.endswith(b"\n\n"), cut
        errors = [chunk for chunk in client.chunks if "error" in chunk]  # every event is read as JSON
        if whole:
            assert (client.text, errors, client.ends) == ("12,3", [], ["finish"]), cut
            assert client.data.count(b"data: [DONE]") == 1, cut
        else:
            assert "12,3".startswith(client.text), cut
            assert (errors, client.ends) == ([client.chunks[-1]], ["abort"]), cut


@pytest.mark.parametrize("ending", ["break", "complete"])
@pytest.mark.parametrize("rule", [RULE, NOT_RESUMED], ids=["resumed", "not resumed"])
def test_an_event_that_was_passed_on_in_pieces_is_closed_before_the_error(rule: Rule, ending: Ending) -> None:
    """The client has a part of it: nothing can make that whole, and what follows must not become a part of it."""
    long = WHOLE[1][:-9] + b"x" * (MAX_HELD_BYTES + 1)
    client, job, sent = answered(GREEDY, [WHOLE[0], long], WHOLE, ending=ending, rule=rule)
    begun, open_event, error, after = client.data.split(b"\n\n")
    assert (begun + b"\n\n", open_event, after) == (WHOLE[0], long, b"")
    assert error.startswith(b'data: {"error"')
    assert (client.ends, len(sent), job.outcome) == (["abort"], 1, Outcome.TRUNCATED)


def test_a_continuation_that_is_cut_inside_an_event_ends_as_one_error() -> None:
    client, job, _ = answered(
        GREEDY, WHOLE[:3], Script(200, STREAM, (b"".join(WHOLE)[:-100],), "complete"), ending="complete"
    )
    assert [e[:8] for e in client.data.split(b"\n\n")][-2:] == [b'data: {"', b""]
    assert client.data.count(b'data: {"error"') == 1
    assert json.loads(client.data.split(b"\n\n")[-2][6:])["error"]
    assert (client.ends, job.outcome) == (["abort"], Outcome.TRUNCATED)


def uncounted(texts: list[str], finish: str | None = None, made: int | None = None) -> list[bytes]:
    """An engine that counts only at the end: ``made`` tokens, when it comes so far."""
    chunks = [json.loads(e[6:]) for e in events(True, texts, finish)]
    for chunk in chunks:
        del chunk["usage"]
    if made is not None:
        usage = {"prompt_tokens": 9, "completion_tokens": made, "total_tokens": 9 + made}
        chunks.append({"id": "2", "choices": [], "usage": usage})
    return [b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks]


def test_counts_of_the_second_part_alone_are_given_to_nobody() -> None:
    client, job, _ = answered(
        CHAT, uncounted(["On", "ce", " upon"]), [*uncounted([" a", " time"], "stop", made=2), DONE]
    )
    assert client.text == "Once upon a time"
    assert not any("usage" in chunk for chunk in client.chunks)
    assert all(chunk["choices"] for chunk in client.chunks)
    assert (job.report.prompt_tokens, job.report.completion_tokens, job.outcome) == (None, None, Outcome.OK)
    assert client.trailers == []


def test_the_counts_of_a_request_that_was_made_again_as_it_was_are_the_whole_answers() -> None:
    client, job, _ = answered(
        {**CHAT, "temperature": 0}, uncounted(["1", "2"]), [*uncounted(["1", "2", "3"], "stop", made=3), DONE]
    )
    assert client.text == "123"
    assert client.chunks[-1]["usage"]["completion_tokens"] == 3
    assert (job.report.prompt_tokens, job.report.completion_tokens) == (9, 3)
    assert client.trailers == [(b"x-route-tokens", b"prompt=9,completion=3")]


def test_a_long_greedy_answer_with_stop_sequences_goes_on_as_a_sampled_one() -> None:
    client, job, sent = answered(
        {**GREEDY, "max_tokens": 400, "stop": ["END"]},
        events(True, ["a"] * 300 + ["E"]),
        [*events(True, ["ND", " more"], "length"), DONE],
    )
    assert sent[1]["messages"][-1]["content"] == "a" * 300 + "E"
    assert sent[1]["max_tokens"] == 99
    assert client.text == "a" * 300 + "E", "the sequence lies across the seam"
    assert (client.ends, job.outcome) == (["finish"], Outcome.OK)


def test_an_answer_of_which_only_the_end_was_missing_tells_its_counts_to_the_edge() -> None:
    client, job, sent = answered(GREEDY, events(True, ["A", " b"], "stop"))
    assert (client.ends, len(sent), job.outcome) == (["finish"], 1, Outcome.OK)
    assert client.trailers == [(b"x-route-tokens", b"prompt=7,completion=2")]


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
    """The first one died before its first byte, the second in its answer; the third has more to do than either."""
    client, job, _ = played(GREEDY, [[SILENT_DEATH], [DEATH], [whole([" b", " c"])]], loads=(0, 1, 9))
    assert ends(job) == [("b0", "broken"), ("b1", "broken"), ("b2", "complete")]
    assert client.text == "A b c"
    assert job.outcome is Outcome.OK


@pytest.mark.parametrize("no", [Script(503, (), (b"busy",)), SILENT_DEATH])
def test_a_backend_that_does_not_begin_the_continuation_is_followed_by_another(no: Script) -> None:
    client, job, _ = played(GREEDY, [[DEATH], [no], [whole([" b", " c"])]], loads=(0, 1, 9))
    assert [backend for backend, _ in ends(job)] == ["b0", "b1", "b2"]
    assert client.text == "A b c"
    assert job.resumes == ["failed", "ok"]


def test_a_continuation_that_the_client_has_something_of_is_not_continued_again() -> None:
    dies_too = Script(200, STREAM, tuple(events(True, [" b", " c"])), "break")
    client, job, _ = played(GREEDY, [[DEATH], [dies_too], [whole([" b", " c"])]], loads=(0, 1, 9))
    assert [backend for backend, _ in ends(job)] == ["b0", "b1"]
    assert client.ends == ["abort"]
    assert job.outcome is Outcome.TRUNCATED


def test_attempts_are_bounded_while_a_stream_is_continued_too() -> None:
    client, job, _ = played(
        GREEDY, [[DEATH], [SILENT_DEATH], [whole([" b"])]], max_attempts=2, loads=(0, 1, 9)
    )
    assert [backend for backend, _ in ends(job)] == ["b0", "b1"]
    assert client.ends == ["abort"]


@pytest.mark.parametrize(("retries", "goes_on"), [(0, False), (1, True)])
def test_what_follows_an_answer_of_a_living_backend_spends_the_budget(retries: int, goes_on: bool) -> None:
    """Its continuation said something else: that engine worked, and the whole text is more work for it."""
    other = Script(200, STREAM, (*events(True, [" b", "d"], "stop"), DONE))
    first = Script(200, STREAM, tuple(events(True, ["A", " b", "c"])), "break")
    client, job, _ = played(GREEDY, [[first], [other, whole(["!"])]], retries=retries, loads=(0, 1))
    assert [end for _, end in ends(job)] == ["broken", "diverged", *(["complete"] if goes_on else [])]
    assert client.ends == ["finish" if goes_on else "abort"]


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2)])
def test_an_answer_that_is_refused_here_spends_the_budget(retries: int, attempts: int) -> None:
    """503 with a body that has no end: the backend lives."""
    endless = Script(503, (), (b"x" * 200_000, b"x" * 200_000), "silence")
    _, job, _ = played(GREEDY, [[endless], [whole(["A"])]], retries=retries, loads=(0, 1))
    assert [end for _, end in ends(job)] == ["malformed", "complete"][:attempts]


@pytest.mark.parametrize(
    ("state", "goes_on"), [(State.UNREACHABLE, True), (State.STUCK, True), (State.SATURATED, False)]
)
def test_a_timeout_spends_the_budget_unless_nothing_works_there_any_more(state: State, goes_on: bool) -> None:
    silent = Script(200, STREAM, (), "silence")
    _, job, _ = played(
        GREEDY,
        [[silent], [whole(["A"])]],
        retries=0,
        loads=(0, 1),
        first_token_seconds=0.1,
        meanwhile=lambda fleet: fleet.set_health("p", "b0", Health(state is State.SATURATED, state)),
    )
    assert [end for _, end in ends(job)] == ["first_token_timeout", *(["complete"] if goes_on else [])]
