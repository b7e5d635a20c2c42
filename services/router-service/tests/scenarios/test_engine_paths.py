"""Every path that vLLM serves for clients reaches an engine and is counted, on real simulators."""

from typing import Any

import httpx
import pytest

from router_service.openai_api.paths import INFERENCE_PATHS

pytestmark = [pytest.mark.service, pytest.mark.untimed]

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


AUDIO_PATHS = {"/v1/audio/transcriptions", "/v1/audio/translations"}


def test_the_table_is_whole() -> None:
    assert set(BODIES) | AUDIO_PATHS == set(INFERENCE_PATHS)


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


def hear(rig, path: str, audio: bytes = b"RIFF" * 20_000, **fields: str) -> httpx.Response:
    files = {"file": ("speech.wav", audio, "audio/wav")}
    return httpx.post(rig.url + path, data={"model": rig.body()["model"], **fields}, files=files, timeout=30)


@pytest.mark.parametrize("path", sorted(AUDIO_PATHS))
def test_audio_is_answered_and_recorded(rig, path: str) -> None:
    answer = hear(rig, path, prompt="Names: Ada.", max_completion_tokens="7")
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"] == {"type": "duration", "seconds": 3}
    record = rig.record(answer.headers["x-request-id"])
    assert (record["path"], record["outcome"], record["stream"]) == (path, "ok", False)
    assert record["features"]["prompt_chars"] == len("Names: Ada.")
    assert record["features"]["max_tokens"] == 7
    assert (record["tokens"]["prompt"], record["tokens"]["completion"]) == (None, None)


@pytest.mark.parametrize("wants_usage", ["true", "false"])
@pytest.mark.parametrize("path", sorted(AUDIO_PATHS))
def test_streamed_audio_has_a_first_token_and_its_end(rig, path: str, wants_usage: str) -> None:
    answer = hear(rig, path, stream="true", stream_include_usage=wants_usage, max_completion_tokens="5")
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    assert answer.text.count('"delta"') == 5
    assert ('"usage"' in answer.text) is (wants_usage == "true")
    record = rig.record(answer.headers["x-request-id"])
    assert (record["outcome"], record["stream"], record["tokens"]["completion"]) == ("ok", True, 5)
    assert record["first_token_ms"] is not None


def test_a_form_without_a_boundary_is_refused_and_recorded(rig) -> None:
    kind = {"content-type": "multipart/form-data"}
    answer = httpx.post(f"{rig.url}/v1/audio/transcriptions", content=b"--x--", headers=kind)
    assert answer.status_code == 400
    assert "boundary" in answer.json()["error"]["message"]
    assert rig.record(answer.headers["x-request-id"])["outcome"] == "client_error"


def test_an_engine_control_in_a_form_is_refused(rig) -> None:
    answer = hear(rig, "/v1/audio/transcriptions", priority="-5")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "priority"
