"""Every path that vLLM serves for clients reaches an engine and is counted, on real simulators."""

from typing import Any

import pytest

from router_service.openai_api.paths import INFERENCE_PATHS

pytestmark = pytest.mark.service

MESSAGES = [{"role": "user", "content": "Tell me about Paris."}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/completions": {"prompt": "Paris is", "max_tokens": 2},
    "/v1/embeddings": {"input": "Paris"},
    "/v1/responses": {"input": "Paris", "max_output_tokens": 2},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/rerank": {"query": "Paris", "documents": ["Paris", "Rome"]},
    "/rerank": {"query": "Paris", "documents": ["Paris", "Rome"]},
    "/v2/rerank": {"query": "Paris", "documents": ["Paris", "Rome"]},
    "/v1/score": {"queries": "Paris", "documents": ["Paris", "Rome"]},
    "/score": {"text_1": "Paris", "text_2": "Rome"},
    "/v1/classify": {"input": ["Paris"]},
    "/classify": {"input": ["Paris"]},
    "/pooling": {"input": "Paris"},
    "/tokenize": {"prompt": "Paris"},
    "/detokenize": {"tokens": [80, 97]},
}
UNCOUNTED = {"/tokenize", "/detokenize", "/v1/messages/count_tokens"}


def test_the_table_is_whole() -> None:
    assert set(BODIES) == set(INFERENCE_PATHS)


@pytest.mark.parametrize("path", BODIES)
def test_a_path_is_answered_and_recorded(rig, path: str) -> None:
    answer = rig.post({"model": rig.body()["model"], **BODIES[path]}, path + "?unknown=query")
    assert answer.status_code == 200, answer.text
    record = rig.record(answer.headers["x-request-id"])
    assert (record["path"], record["outcome"]) == (path, "ok")
    assert (record["tokens"]["prompt"] is None) is (path in UNCOUNTED)
    assert (record["features"]["prompt_chars"] > 0) is True


def test_count_tokens_counts_what_the_message_costs(rig) -> None:
    body = {"model": rig.body()["model"], "messages": MESSAGES, "max_tokens": 1}
    counted = rig.post(body, "/v1/messages/count_tokens").json()["input_tokens"]
    answer = rig.post(body, "/v1/messages")
    used = answer.json()["usage"]
    # Anthropic's definition: the tokens read from the cache and written to it are not in `input_tokens`.
    assert counted == (
        used["input_tokens"] + used["cache_read_input_tokens"] + used["cache_creation_input_tokens"]
    )
    assert used["cache_creation_input_tokens"] > 0
    assert rig.record(answer.headers["x-request-id"])["tokens"]["prompt"] == counted
