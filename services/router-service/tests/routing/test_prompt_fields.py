"""The prompt of each path consists of the fields that vLLM tokenizes there, and no other field."""

from typing import Any

import pytest

from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.routing import prompt_fields
from router_service.routing.features import Features, Needs, extract_features
from router_service.routing.prompt_reader import MAX_PARTS, MAX_PROMPTS, Excessive

LONG = "x" * 100_000
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


def read(path: str, body: dict[str, Any]) -> Features:
    return extract_features({"model": "m", **body}, path, {}, needs=Needs(user_text=True, prefix=True))


def chat(**message: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}, message]}


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "description": LONG}}}
]
ANTHROPIC_TOOLS = [{"name": "f", "description": LONG, "input_schema": {"type": "object"}}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(CHAT, {**chat(role="user", content="a"), "tools": TOOLS}, id="chat tools"),
        pytest.param(CHAT, chat(role="assistant", tool_calls=[call(LONG)]), id="chat tool_calls"),
        pytest.param(CHAT, chat(role="assistant", tool_calls=[call({"a": LONG})]), id="arguments as an object"),
        pytest.param(CHAT, chat(role="assistant", reasoning_content=LONG), id="chat reasoning_content"),
        pytest.param(CHAT, chat(role="assistant", reasoning=LONG), id="chat reasoning"),
        pytest.param(CHAT, chat(role="tool", tool_call_id="c", content=LONG), id="chat tool result"),
        pytest.param(CHAT, chat(role="user", content=[{"type": "text", "text": LONG}]), id="chat text part"),
        pytest.param(CHAT, chat(role="user", content=[{"type": "input_text", "text": LONG}]), id="input_text"),
        pytest.param(CHAT, chat(role="assistant", content=[{"type": "refusal", "refusal": LONG}]), id="refusal"),
        pytest.param(CHAT, chat(role="assistant", content=[{"type": "thinking", "thinking": LONG}]), id="thinking"),
        pytest.param(CHAT, {**chat(role="user", content="a"), "documents": [{"text": LONG}]}, id="documents"),
        pytest.param(
            CHAT, {**chat(role="user", content="a"), "chat_template_kwargs": {"instructions": LONG}}, id="kwargs"
        ),
        pytest.param(RESPONSES, {"input": LONG}, id="responses text"),
        pytest.param(RESPONSES, {"input": "a", "instructions": LONG}, id="instructions"),
        pytest.param(RESPONSES, {"input": "a", "tools": TOOLS}, id="responses tools"),
        pytest.param(RESPONSES, {"input": [{"role": "user", "content": LONG}]}, id="responses message"),
        pytest.param(
            RESPONSES,
            {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": LONG}]}]},
            id="responses parts",
        ),
        pytest.param(
            RESPONSES,
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": LONG}]},
            id="function_call",
        ),
        pytest.param(
            RESPONSES,
            {"input": [{"type": "function_call_output", "call_id": "c", "output": LONG}]},
            id="function_call_output",
        ),
        pytest.param(
            RESPONSES,
            {"input": [{"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": LONG}]}]},
            id="responses reasoning",
        ),
        pytest.param(MESSAGES, {"system": LONG, "messages": []}, id="system text"),
        pytest.param(MESSAGES, {"system": [{"type": "text", "text": LONG}], "messages": []}, id="system blocks"),
        pytest.param(MESSAGES, {**block(type="text", text="a"), "tools": ANTHROPIC_TOOLS}, id="messages tools"),
        pytest.param(MESSAGES, block(type="tool_use", id="t", name="f", input={"a": LONG}), id="tool_use"),
        pytest.param(MESSAGES, block(type="tool_result", tool_use_id="t", content=LONG), id="tool_result text"),
        pytest.param(
            MESSAGES,
            block(type="tool_result", tool_use_id="t", content=[{"type": "text", "text": LONG}]),
            id="tool_result blocks",
        ),
        pytest.param(MESSAGES, block(type="thinking", thinking=LONG, signature="s"), id="messages thinking"),
        pytest.param("/v1/messages/count_tokens", block(type="text", text=LONG), id="count_tokens"),
        pytest.param("/v1/completions", {"prompt": ["a", LONG]}, id="completions"),
        pytest.param("/v1/completions", {"prompt": list(range(25_000))}, id="token ids"),
        pytest.param("/v1/completions", {"prompt": [list(range(12_500))] * 2}, id="lists of token ids"),
        pytest.param("/v1/embeddings", {"input": LONG}, id="embeddings"),
        pytest.param("/v1/embeddings", chat(role="user", content=LONG), id="embeddings of messages"),
        pytest.param("/v1/embeddings", {"input": [{"role": "user", "content": LONG}]}, id="messages as input"),
        pytest.param("/classify", {"input": [LONG]}, id="classify"),
        pytest.param("/pooling", chat(role="user", content=LONG), id="pooling"),
        pytest.param("/v1/rerank", {"query": "q", "documents": ["a", LONG]}, id="rerank"),
        pytest.param(
            "/v2/rerank", {"query": "q", "documents": {"content": [{"type": "text", "text": LONG}]}}, id="parts"
        ),
        pytest.param("/v1/rerank", {"query": "q" * 1000, "documents": ["d"] * 100}, id="a query for each document"),
        pytest.param("/score", {"text_1": "q", "text_2": [LONG]}, id="score text_2"),
        pytest.param("/v1/score", {"queries": "q", "items": LONG}, id="score items"),
        pytest.param("/tokenize", {"prompt": LONG}, id="tokenize"),
        pytest.param("/tokenize", {**chat(role="user", content="a"), "tools": TOOLS}, id="tokenize tools"),
        pytest.param("/detokenize", {"tokens": list(range(25_000))}, id="detokenize"),
    ],
)  # fmt: skip
def test_everything_that_the_engine_tokenizes_counts(path: str, body: dict[str, Any]) -> None:
    assert 100_000 <= read(path, body).prompt_chars < 100_500


@pytest.mark.parametrize(
    ("path", "body", "chars"),
    [
        pytest.param(RESPONSES, {"input": [{"role": "user", "text": "", "content": "abc"}]}, 3, id="text beside content"),
        pytest.param(RESPONSES, {"input": "a", "system": "", "instructions": "abc"}, 4, id="system beside instructions"),
        pytest.param(RESPONSES, {"input": "a", "system": LONG}, 1, id="a field of another path"),
        pytest.param(MESSAGES, {"messages": [], "instructions": LONG}, 0, id="instructions at messages"),
        pytest.param(CHAT, {**chat(role="user", content="a"), "prompt": LONG, "system": LONG}, 3, id="prompt at chat"),
        pytest.param("/v1/completions", {"prompt": "abc", "messages": [{"content": LONG}]}, 3, id="messages at prompt"),
        pytest.param(CHAT, chat(role="user", content=[{"type": "text", "text": "abc", "content": LONG}]), 5, id="part"),
        pytest.param(MESSAGES, block(type="text", text="abc", content=LONG), 3, id="content beside a block's text"),
    ],
)  # fmt: skip
def test_a_decoy_neither_hides_nor_adds_text(path: str, body: dict[str, Any], chars: int) -> None:
    assert read(path, body).prompt_chars == chars


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        (CHAT, {"max_completion_tokens": 1, "max_tokens": 900}, 900),
        (CHAT, {"max_completion_tokens": 900, "max_tokens": 1}, 900),
        (CHAT, {"max_output_tokens": 900}, None),
        ("/v1/completions", {"max_completion_tokens": 1, "max_tokens": 900}, 900),
        (RESPONSES, {"max_tokens": 1, "max_output_tokens": 900}, 900),
        (MESSAGES, {"max_tokens": 900, "max_completion_tokens": 1}, 900),
        (CHAT, {"max_tokens": True}, None),
    ],
)
def test_the_limit_is_the_largest_that_the_path_reads(
    path: str, body: dict[str, Any], limit: int | None
) -> None:
    assert read(path, body).max_tokens == limit


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (CHAT, {"type": "image_url", "image_url": {"url": "u"}, "text": "decoy"}),
        (CHAT, {"image_url": "u"}),
        (CHAT, {"image_url": {"url": "u"}, "text": "decoy"}),
        (CHAT, {"type": "text", "uuid": "1", "image_url": None}),
        (CHAT, {"type": "image_embeds", "image_embeds": "e"}),
        (RESPONSES, {"type": "input_image", "image_url": "u", "text": "decoy"}),
        (MESSAGES, {"type": "image", "source": {}, "text": "decoy"}),
        (MESSAGES, {"type": "tool_result", "content": [{"type": "image", "source": {}}]}),
    ],
)
def test_a_part_is_an_image_by_what_it_holds(path: str, part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [part]}]
    found = read(path, {"input" if path == RESPONSES else "messages": messages})
    assert found.has_images
    assert found.prompt_chars == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(role="assistant", content="python", tool_calls=[call("python")])),
        (CHAT, chat(role="tool", content="python")),
        (
            RESPONSES,
            {"input": [{"type": "function_call_output", "output": "python"}], "instructions": "python"},
        ),
        (MESSAGES, block(type="tool_result", content="python")),
    ],
)
def test_text_conditions_see_user_messages_only(path: str, body: dict[str, Any]) -> None:
    assert "python" not in (read(path, body).user_text or "")


def test_tools_and_tool_calls_are_in_the_prefix() -> None:
    def prefix(**more: Any) -> str:
        return read(CHAT, {"messages": [{"role": "user", "content": "hi"}], **more}).prefix

    assert prefix() != prefix(tools=TOOLS) != prefix(tools=[*TOOLS, *TOOLS])
    assert read(CHAT, {**chat(role="user", content="a"), "tools": TOOLS}).prefix != prefix(tools=TOOLS)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{}] * (MAX_PARTS + 1)}),
        (CHAT, {"messages": [{"role": "user", "content": [{}] * (MAX_PARTS // 2)}] * 3}),
        (CHAT, chat(role="assistant", tool_calls=[{}] * (MAX_PARTS + 1))),
        (RESPONSES, {"input": [0] * 1_000_000}),
        (MESSAGES, {"messages": [{"role": "user", "content": [{}] * (MAX_PARTS + 1)}]}),
        ("/v1/completions", {"prompt": ["a"] * (MAX_PROMPTS + 1)}),
        ("/v1/embeddings", {"input": [[1]] * (MAX_PROMPTS + 1)}),
        ("/v1/rerank", {"query": "q", "documents": ["d"] * (MAX_PARTS + 1)}),
    ],
)
def test_too_many_items_are_refused(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(Excessive, match=r"at most|over"):
        read(path, body)


ODD: list[Any] = [None, 1, "x", [], [[]], [None], [1, "x"], {}, [{}], [{"role": 1, "content": 2}], [{"content": [[]]}],
                  [{"type": ["text"], "text": "a"}], [{"tool_calls": "x"}], [{"tool_calls": [{"function": 1}]}]]  # fmt: skip


@pytest.mark.parametrize("path", sorted({*prompt_fields._READERS, *INFERENCE_PATHS}))
def test_values_of_unexpected_types_are_absent(path: str) -> None:
    names = ("messages", "input", "prompt", "system", "instructions", "tools", "query", "documents", "tokens",
             "text_1", "items", "data", "chat_template_kwargs", "previous_input_messages", "max_tokens")  # fmt: skip
    for name in names:
        for value in ODD:
            read(path, {name: value})
