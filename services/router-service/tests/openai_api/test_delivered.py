"""Tokens delivered before the client disconnected, counted from events in vLLM 0.32's format."""

import json

import pytest

from router_service.openai_api.delivered import ChoiceTokens, EventTokens, delivered_tokens
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.openai_api.usage import EngineReport

MESSAGE_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"c","content":[],"model":"m",'
    b'"role":"assistant","type":"message","usage":{"input_tokens":31,"output_tokens":0}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
)
RESPONSE_START = (
    b'event: response.created\ndata: {"response":{"id":"resp_1","usage":null},"type":"response.created"}\n\n'
    b'event: response.content_part.added\ndata: {"part":{"text":"","type":"output_text"},'
    b'"type":"response.content_part.added"}\n\n'
)
NOTHING = EngineReport()


def message_delta(kind: str, field: str, text: str) -> bytes:
    event = {"type": "content_block_delta", "index": 0, "delta": {"type": kind, field: text}}
    return b"event: content_block_delta\ndata: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def response_delta(kind: str, text: str) -> bytes:
    event = {"content_index": 0, "delta": text, "item_id": "msg", "type": kind}
    return f"event: {kind}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


def chunk(index: int, prompt: int, completion: int) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    event = {"id": "c", "choices": [{"index": index, "text": 'a"usage":{'}], "usage": usage}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def test_every_delta_of_messages_is_a_token_and_the_prompt_is_known() -> None:
    counter = EventTokens()
    counter.feed(MESSAGE_START + message_delta("thinking_delta", "thinking", "hm"))
    for text in ("a", ' "delta":"b"', "\n\n", "é"):
        counter.feed(message_delta("text_delta", "text", text))
    counter.feed(message_delta("input_json_delta", "partial_json", '{"a":'))
    assert counter.total(NOTHING, 9_000) == 31 + 6


def test_every_delta_of_responses_is_a_token_and_the_prompt_is_estimated_by_size() -> None:
    counter = EventTokens()
    counter.feed(RESPONSE_START)
    for kind in ("response.output_text.delta", "response.reasoning_text.delta"):
        counter.feed(response_delta(kind, "word ") * 3)
    done = b'event: response.output_text.done\ndata: {"text":"word word word ","type":"response.output_text.done"}'
    counter.feed(done + b"\n\n")
    assert counter.total(NOTHING, 301) == 101 + 6


def test_an_event_with_much_text_counts_as_several_tokens() -> None:
    counter = EventTokens()
    counter.feed(MESSAGE_START + message_delta("text_delta", "text", "x" * 800))
    assert counter.total(NOTHING, 0) == 31 + 100


def test_a_reported_completion_above_the_count_holds() -> None:
    counter = EventTokens()
    counter.feed(MESSAGE_START + message_delta("text_delta", "text", "x"))
    assert counter.total(EngineReport(prompt_tokens=31, completion_tokens=40), 0) == 31 + 40


def test_without_a_delta_nothing_is_known() -> None:
    counter = EventTokens()
    counter.feed(MESSAGE_START)
    assert counter.total(EngineReport(prompt_tokens=31, completion_tokens=0), 100) is None
    assert ChoiceTokens(2, 1).total(NOTHING, 100) is None


def test_the_usage_of_every_choice_is_added_up() -> None:
    """Each chunk of vLLM reports only the choice that it belongs to."""
    counter = ChoiceTokens(3, 1)
    for completion in range(1, 11):
        counter.feed(b"".join(chunk(index, 7, completion) for index in range(3)))
    counter.feed(b": a comment\n\ndata: [DONE]\n\n")
    assert counter.total(NOTHING, 9_000) == 7 + 30


def test_the_usage_of_every_prompt_is_added_up_and_an_unseen_prompt_is_estimated() -> None:
    counter = ChoiceTokens(2, 2)
    counter.feed(chunk(0, 5, 3) + chunk(1, 5, 4))
    assert counter.total(NOTHING, 90) == 30 + 7
    counter.feed(chunk(3, 11, 2))
    assert counter.total(NOTHING, 90) == 5 + 11 + 9


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/messages", {}, EventTokens),
        ("/v1/responses", {}, EventTokens),
        ("/v1/chat/completions", {}, None),
        ("/v1/chat/completions", {"n": 1}, None),
        ("/v1/chat/completions", {"n": True}, None),
        ("/v1/chat/completions", {"n": 2}, ChoiceTokens),
        ("/v1/completions", {"prompt": "a"}, None),
        ("/v1/completions", {"prompt": [1, 2, 3]}, None),
        ("/v1/completions", {"prompt": ["a"]}, None),
        ("/v1/completions", {"prompt": ["a", "b"]}, ChoiceTokens),
        ("/v1/completions", {"prompt": [[1], [2]]}, ChoiceTokens),
        ("/v1/embeddings", {"input": "a"}, None),
    ],
)
def test_only_streams_whose_last_event_would_not_do_are_counted(path: str, body: dict, kind: type) -> None:
    assert type(delivered_tokens(INFERENCE_PATHS[path], body)) is (kind or type(None))
