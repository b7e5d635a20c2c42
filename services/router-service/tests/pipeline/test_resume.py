"""The seam of a continued stream: its position, the request for the continuation, and the reported token counts."""

import json
from typing import Any

import orjson
import pytest

from harness.stacks.resumed_streams import CHAT, DONE, GREEDY, answered, events
from router_service.routing.vocabulary import Outcome


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
    """A chat template may trim white space from the end of the text, and the engine then generates it again."""
    client, _, sent = answered(
        {**CHAT, "max_tokens": 10}, events(True, ["End", ".", "\n\n"]), [*events(True, [new], "stop"), DONE]
    )
    assert sent[1]["messages"][-1]["content"] == "End."
    assert client.text == "End.\n\nNext"


def test_with_stop_sequences_a_greedy_answer_is_made_again_whole() -> None:
    """The engine delays text that may begin a stop sequence but counts its tokens: only the same request works."""
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
    """The other engine is at its limit and the queue is full: the stream never contains a second head."""
    client, job, sent = answered(GREEDY, events(True, ["A", " b"]), busy=True)
    assert (client.starts, client.ends, len(sent)) == (1, ["abort"], 1)
    assert client.text == "A b"
    assert client.data.count(b'data: {"error"') == 1
    assert job.outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("cut", range(1, 9))
def test_wherever_it_is_cut_the_answer_is_the_uninterrupted_one(cut: int) -> None:
    """An engine that generates the same tokens for any text in the request."""
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


def uncounted(texts: list[str], finish: str | None = None, made: int | None = None) -> list[bytes]:
    """An engine that reports counts only at the end: ``made`` tokens, if it reaches the end."""
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
