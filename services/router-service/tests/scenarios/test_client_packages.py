"""The client packages that applications use make their usual calls against an edge, a router and an engine simulator.

The simulator answers 501 to tools and structured output.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from harness.clients.packages import JAVASCRIPT, ROOT, clients_python, run
from harness.npm import installed
from harness.servers.edges import running_edge
from harness.servers.router_fleet import MODEL, fleet_in
from harness.servers.scripted_engine import ScriptedEngine, scripted_engine

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.timeout(600)]

CALLS = ROOT / "tests" / "harness" / "clients" / "calls.py"
ALIAS = "meta-llama/Llama-3.1-8B-Instruct"
BROKEN = "breaks-off"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


CHOICE = {"index": 0, "delta": {"content": "a"}}
CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [CHOICE]}
CHAT = f"data: {json.dumps(CHUNK)}\n\n".encode()
RESPONSE = event(
    "response.output_text.delta",
    delta="a",
    item_id="i",
    output_index=0,
    content_index=0,
    sequence_number=1,
    logprobs=[],
)
STARTED = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
}
MESSAGE = (
    event("message_start", message={**STARTED, "usage": {"input_tokens": 1, "output_tokens": 0}})
    + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
)


@dataclass(frozen=True)
class Platform:
    """The address of an edge, and the engine of the model whose streams break off."""

    url: str
    scripted: ScriptedEngine


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("clients")
    with fleet_in(folder) as fleet, scripted_engine() as scripted:
        scripted.script = []
        engine = fleet.add_engine("engine-a")
        router = fleet.add_router(
            wait_usable=1,
            pools={
                "general": {
                    "models": [MODEL],
                    "aliases": {ALIAS: MODEL},
                    "backends": {"engine-a": {"url": engine.url}},
                },
                "broken": {"models": [BROKEN], "backends": {"engine-b": {"url": scripted.url}}},
            },
            breaker={"failures": 10_000},
        )
        router.wait()
        with running_edge(folder / "edge", router.port) as edge:
            yield Platform(edge.url, scripted)


def calls(platform: Platform, package: str, first: bytes) -> dict[str, Any]:
    """Run a package's calls; ``first`` is what the broken engine sends before its connection is lost."""
    breaks_off_after(platform, first)
    return run(clients_python(), CALLS, package, platform.url, ALIAS, BROKEN)


def breaks_off_after(platform: Platform, first: bytes) -> None:
    platform.scripted.script = [SSE + b"%x\r\n%b\r\n" % (len(first), first), "close"]


def test_openai(platform) -> None:
    found = calls(platform, "openai", CHAT)
    assert ALIAS in found.pop("listed")
    found.pop("broken_response")
    assert found == {
        "agent": 5,
        "agent_response": 5,
        "request_id": True,
        "retrieved": ALIAS,
        "chat": [ALIAS, 5],
        "streamed": True,
        "response": ALIAS,
        "response_stream": ["response.created", "response.completed"],
        "completion": 5,
        "embedding": 1,
        "heard": [True, True],
        "heard_stream": ["transcription.chunk", ALIAS],
        "tools": "InternalServerError",
        "structured": "InternalServerError",
        "unknown": "NotFoundError",
        "broken": "APIError",
    }
    assert calls(platform, "openai", RESPONSE)["broken_response"] == "APIError"


def test_anthropic(platform) -> None:
    assert calls(platform, "anthropic", MESSAGE) == {
        "agent": 5,
        "request_id": True,
        "listed": True,
        "retrieved": ALIAS,
        "wrong_key": ["AuthenticationError", True],
        "message": [ALIAS, 5, "max_tokens"],
        "streamed": [True, 5],
        "counted": True,
        "tools": "HTTPNotImplementedError",
        "unknown": "NotFoundError",
        "broken": "APIStatusError",
    }


def test_litellm(platform) -> None:
    assert calls(platform, "litellm", CHAT) == {
        "chat": [ALIAS, 5],
        "streamed": True,
        "message": [5, "length"],
        "response": ALIAS,
        "embedding": 1,
        "tools": "APIError",
        "unknown": "NotFoundError",
        "unknown_message": "NotFoundError",
        "broken": "MidStreamFallbackError",
    }


def test_langchain(platform) -> None:
    assert calls(platform, "langchain", CHAT) == {
        "chat": [ALIAS, 5],
        "streamed": True,
        "responses": 5,
        "message": 5,
        "message_streamed": True,
        "embedding": 1,
        "tools": "OpenAIAPIError",
        "structured": "OpenAIAPIError",
        "unknown": "OpenAIModelNotFoundError",
        "unknown_message": "AnthropicModelNotFoundError",
        "broken": "APIError",
    }


AI_SDK = {
    "text": True,
    "tokens": 5,
    "finish": "length",
    "streamed": [True, 5],
    "tools": 501,
    "object": 501,
    "unknown": 404,
    "broken": True,
}


def test_openai_in_javascript_and_the_ai_sdk(platform) -> None:
    breaks_off_after(platform, CHAT)
    found = run("node", "calls.mjs", platform.url, ALIAS, BROKEN, cwd=installed(JAVASCRIPT))
    assert found.pop("openai") == {
        "listed": True,
        "retrieved": ALIAS,
        "chat": [ALIAS, 5],
        "streamed": True,
        "response": ALIAS,
        "response_stream": ["response.created", "response.completed"],
        "tools": 501,
        "unknown": 404,
        "broken": "APIError",
    }
    assert found == {"compatible": AI_SDK, "responses": AI_SDK, "anthropic": AI_SDK}
