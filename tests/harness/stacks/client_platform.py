"""A platform for the client packages: an edge and a router in front of one engine, and an engine whose streams break off.

``SIMULATED`` is what the packages find if the engine is a simulator, which refuses tools and structured output with 501.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.clients.packages import JAVASCRIPT, ROOT, clients_python, run
from harness.npm import installed
from harness.servers.edges import running_edge
from harness.servers.router_fleet import MODEL, Fleet
from harness.servers.scripted_engine import ScriptedEngine, scripted_engine

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
STARTED: dict[str, Any] = {
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

    def calls(self, package: str, first: bytes) -> dict[str, Any]:
        """Run a package's calls; ``first`` is what the broken engine sends before its connection is lost."""
        self._breaks_off_after(first)
        return run(clients_python(), CALLS, package, self.url, ALIAS, BROKEN)

    def javascript_calls(self) -> dict[str, Any]:
        """Run the calls of OpenAI's package and of the AI SDK in JavaScript."""
        self._breaks_off_after(CHAT)
        return run("node", "calls.mjs", self.url, ALIAS, BROKEN, cwd=installed(JAVASCRIPT))

    def _breaks_off_after(self, first: bytes) -> None:
        self.scripted.script = [SSE + b"%x\r\n%b\r\n" % (len(first), first), "close"]


@contextlib.contextmanager
def client_platform(folder: Path, fleet: Fleet, engine_url: str, **sections: Any) -> Iterator[Platform]:
    """Run a router of ``fleet`` and an edge until the block ends.

    The engine at ``engine_url`` serves ``MODEL``; clients call it ``ALIAS``, which only the router knows.
    """
    with scripted_engine() as scripted:
        scripted.script = []
        router = fleet.add_router(
            wait_usable=1,
            pools={
                "general": {
                    "models": [MODEL],
                    "aliases": {ALIAS: MODEL},
                    "backends": {"engine-a": {"url": engine_url}},
                },
                "broken": {"models": [BROKEN], "backends": {"engine-b": {"url": scripted.url}}},
            },
            breaker={"failures": 10_000},
            **sections,
        )
        with running_edge(folder / "edge", router.port) as edge:
            yield Platform(edge.url, scripted)


AI_SDK = {
    "text": True,
    "tokens": 5,
    "finish": "length",
    "streamed": [True, 5],
    "tools": 501,
    "forced": 501,
    "object": 501,
    "unknown": 404,
    "broken": True,
}
SIMULATED: dict[str, dict[str, Any]] = {
    "openai": {
        "agent": 5,
        "agent_text": 5,
        "agent_response": 5,
        "agent_response_text": 5,
        "request_id": True,
        "listed": True,
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
        "forced": "InternalServerError",
        "forced_response": "InternalServerError",
        "structured": "InternalServerError",
        "structured_response": "InternalServerError",
        "unknown": "NotFoundError",
        "broken": "APIError",
    },
    "anthropic": {
        "agent": 5,
        "agent_text": 5,
        "request_id": True,
        "listed": True,
        "retrieved": ALIAS,
        "wrong_key": ["AuthenticationError", True],
        "message": [ALIAS, 5, "max_tokens"],
        "streamed": [True, 5],
        "counted": True,
        "tools": "HTTPNotImplementedError",
        "forced": "HTTPNotImplementedError",
        "unknown": "NotFoundError",
        "broken": "APIStatusError",
    },
    "litellm": {
        "chat": [ALIAS, 5],
        "streamed": True,
        "message": [5, "length"],
        "response": ALIAS,
        "embedding": 1,
        "tools": "APIError",
        "forced": "APIError",
        "unknown": "NotFoundError",
        "unknown_message": "NotFoundError",
        "broken": "MidStreamFallbackError",
    },
    "langchain": {
        "chat": [ALIAS, 5],
        "streamed": True,
        "responses": 5,
        "message": 5,
        "message_streamed": True,
        "embedding": 1,
        "tools": "OpenAIAPIError",
        "forced": "OpenAIAPIError",
        "structured": "OpenAIAPIError",
        "unknown": "OpenAIModelNotFoundError",
        "unknown_message": "AnthropicModelNotFoundError",
        "broken": "APIError",
    },
    "openai in JavaScript": {
        "listed": True,
        "retrieved": ALIAS,
        "chat": [ALIAS, 5],
        "streamed": True,
        "response": ALIAS,
        "response_stream": ["response.created", "response.completed"],
        "tools": 501,
        "unknown": 404,
        "broken": "APIError",
    },
}
