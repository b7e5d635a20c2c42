"""Which event of a stream is its first token, for every API that streams."""

import pytest

from router_service.openai_api.first_token import carries_answer, carries_output
from router_service.openai_api.paths import INFERENCE_PATHS

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"


def named(name: str, more: str = "") -> bytes:
    return f'event: {name}\ndata: {{"type":"{name}"{more}}}\n\n'.encode()


def choice(inside: str) -> bytes:
    return f'data: {{"id":"1","choices":[{{"index":0,{inside}}}]}}\n\n'.encode()


ITEM = "response.output_item.added"
WITHOUT = [
    (CHAT, choice('"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null')),
    (CHAT, choice('"delta": {"role": "assistant", "content": "", "reasoning_content": null}')),
    (CHAT, b": keep-alive\n\n" + choice('"delta":{"role":"assistant"}')),
    (TEXT, choice('"text":"","finish_reason":null')),
    (RESPONSES, named("response.created", ',"response":{"input":[{"content":"hello"}]}')),
    (RESPONSES, b'data: {"type":"response.created","response":{"instructions":"be kind"}}\n\n'),
    (RESPONSES, named("response.in_progress")),
    (RESPONSES, named(ITEM, ',"item":{"type":"message","content":[]}')),
    (RESPONSES, named("response.content_part.added", ',"part":{"text":""}')),
    (MESSAGES, named("message_start", ',"message":{"content":[]}') + named("ping")),
    (MESSAGES, named("content_block_start", ',"content_block":{"type":"text","text":""}')),
]
WITH = [
    (CHAT, choice('"delta":{"content":"a"}')),
    (CHAT, choice('"delta": {"content": "a"}')),
    (CHAT, choice('"delta":{"reasoning":"a"}')),
    (CHAT, choice('"delta":{"reasoning_content":"a"}')),
    (CHAT, choice('"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}}]}')),
    (CHAT, choice('"delta":{},"finish_reason":"stop"')),
    (CHAT, b"data: [DONE]\n\n"),
    (CHAT, choice('"delta":{"role":"assistant","content":""}') + choice('"delta":{"content":"a"}')),
    (TEXT, choice('"text":"a"')),
    (RESPONSES, named("response.output_text.delta", ',"delta":"a"')),
    (RESPONSES, b'data: {"type":"response.reasoning_text.delta","delta":"a"}\n\n'),
    (RESPONSES, named(ITEM, ',"item":{"type":"function_call","name":"f"}')),
    (RESPONSES, named("response.completed")),
    (MESSAGES, named("content_block_delta", ',"delta":{"text":"a"}')),
    (MESSAGES, named("content_block_start", ',"content_block":{"type":"tool_use","name":"f"}')),
    (MESSAGES, named("message_stop")),
]


@pytest.mark.parametrize(("path", "block"), WITHOUT)
def test_an_event_that_only_announces_is_no_first_token(path: str, block: bytes) -> None:
    assert not carries_output(INFERENCE_PATHS[path], block)


@pytest.mark.parametrize(("path", "block"), WITH)
def test_output_and_the_end_of_an_answer_are_a_first_token(path: str, block: bytes) -> None:
    assert carries_output(INFERENCE_PATHS[path], block)


@pytest.mark.parametrize(
    ("path", "event", "answers"),
    [
        (CHAT, choice('"delta":{"role":"assistant","content":""}'), False),
        (CHAT, choice('"delta":{"reasoning":"\\"content\\":\\"a\\""}'), False),
        (CHAT, choice('"delta":{"reasoning_content":"a"}'), False),
        (CHAT, choice('"delta":{"content":"","reasoning":"a"}'), False),
        (CHAT, choice('"delta":{"content":"a"}'), True),
        (CHAT, choice('"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}}]}'), True),
        (TEXT, choice('"text":"a"'), True),
        (RESPONSES, named("response.created"), False),
        (RESPONSES, named("response.reasoning_text.delta", ',"delta":"a"'), False),
        (RESPONSES, named("response.reasoning_summary_text.delta", ',"delta":"a"'), False),
        (RESPONSES, named("response.output_text.delta", ',"delta":"a"'), True),
        (RESPONSES, named("response.function_call_arguments.delta", ',"delta":"{"'), True),
        (MESSAGES, named("message_start"), False),
        (MESSAGES, named("content_block_delta", ',"delta":{"type":"thinking_delta","thinking":"a"}'), False),
        (
            MESSAGES,
            named("content_block_delta", ',"delta":{"type":"signature_delta","signature":"a"}'),
            False,
        ),
        (MESSAGES, named("content_block_delta", ',"delta":{"type":"text_delta","text":"a"}'), True),
        (MESSAGES, named("content_block_start", ',"content_block":{"type":"tool_use","name":"f"}'), True),
    ],
)
def test_thoughts_are_not_the_answer(path: str, event: bytes, answers: bool) -> None:
    assert carries_answer(INFERENCE_PATHS[path], event) is answers
