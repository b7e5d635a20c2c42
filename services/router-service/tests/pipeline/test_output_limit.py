"""The limit that the router writes into a request without one, so that the edge's reservation is an upper bound."""

from typing import Any

import pytest

from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.output_limit import missing_limit

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (CHAT, {}, {"max_tokens": 500}),
        (CHAT, {"max_tokens": None, "max_completion_tokens": None}, {"max_tokens": 500}),
        (CHAT, {"max_tokens": 9}, {}),
        (CHAT, {"max_completion_tokens": 9}, {}),
        # vLLM generates 16 tokens without the field, and up to the model's length with null.
        (COMPLETIONS, {}, {}),
        (COMPLETIONS, {"max_tokens": None}, {"max_tokens": 500}),
        (RESPONSES, {}, {"max_output_tokens": 500}),
        (RESPONSES, {"max_output_tokens": 9}, {}),
        ("/v1/messages", {}, {}),
        ("/v1/embeddings", {}, {}),
    ],
)
def test_only_a_request_without_a_limit_gets_one(
    path: str, body: dict[str, Any], expected: dict[str, int]
) -> None:
    assert missing_limit(INFERENCE_PATHS[path], body, b"500", 2048) == expected


@pytest.mark.parametrize("longest", [None, 499, 500])
def test_a_model_that_is_not_longer_limits_itself(longest: int | None) -> None:
    """vLLM refuses a limit above the model's length."""
    assert missing_limit(INFERENCE_PATHS[CHAT], {}, b"500", longest) == {}


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"1.5", b"x", b"9" * 5000])
def test_an_unusable_header_writes_nothing(value: bytes) -> None:
    assert missing_limit(INFERENCE_PATHS[CHAT], {}, value, 10**12) == {}
