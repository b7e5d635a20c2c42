"""The client packages make the calls of `test_client_packages.py` against an edge, a router and the real engine.

The small model reads only text and has no tool parser, no audio and no embeddings. The engine forces structured output with
any model.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from harness.servers.router_fleet import fleet_in
from harness.stacks.client_platform import (
    AI_SDK,
    CHAT,
    MESSAGE,
    SIMULATED,
    Platform,
    client_platform,
)
from harness.stacks.local import Stack

pytestmark = [pytest.mark.platform, pytest.mark.full, pytest.mark.timeout(900)]

FOUND: dict[str, dict[str, Any]] = {
    "openai": {
        "agent": "BadRequestError",
        "agent_response": "BadRequestError",
        "agent_response_text": "BadRequestError",
        "embedding": "NotFoundError",
        "heard": ["NotFoundError", "NotFoundError"],
        "heard_stream": "NotFoundError",
        "tools": "BadRequestError",
        "forced": "BadRequestError",
        "forced_response": [],
        "structured": True,
        "structured_response": True,
        "broken_response": "APIError",
    },
    "anthropic": {
        "agent": "BadRequestError",
        "agent_text": "BadRequestError",
        "tools": "BadRequestError",
        "forced": "BadRequestError",
    },
    "litellm": {"embedding": "NotFoundError", "tools": "BadRequestError", "forced": "BadRequestError"},
    "langchain": {
        "embedding": "NotFoundError",
        "tools": "OpenAIInvalidRequestError",
        "forced": "OpenAIInvalidRequestError",
        "structured": True,
    },
}
"""What the packages find otherwise than with the simulator."""


@pytest.fixture(scope="module")
def platform(vllm_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("clients")
    timeouts = {"connect_seconds": 1.0, "first_token_seconds": 60, "idle_seconds": 30, "total_seconds": 120}
    with (
        fleet_in(folder) as fleet,
        client_platform(folder, fleet, vllm_stack.url("ENGINE_A_PORT"), timeouts=timeouts) as found,
    ):
        yield found


@pytest.mark.parametrize(
    ("package", "first"), [("openai", CHAT), ("anthropic", MESSAGE), ("litellm", CHAT), ("langchain", CHAT)]
)
def test_packages(platform: Platform, package: str, first: bytes) -> None:
    assert platform.calls(package, first) == {**SIMULATED[package], **FOUND[package]}


def test_openai_in_javascript_and_the_ai_sdk(platform: Platform) -> None:
    found = platform.javascript_calls()
    assert found.pop("openai") == {**SIMULATED["openai in JavaScript"], "tools": 400}
    refused = {**AI_SDK, "tools": 400, "forced": 400}
    # Without a tool parser, the engine answers Responses with text and ignores the tools.
    ignored = {**AI_SDK, "tools": "", "forced": "ToolChoiceViolationError", "object": True}
    assert found == {
        "compatible": {**refused, "object": True},
        "responses": ignored,
        "anthropic": {**refused, "object": 400},
    }
