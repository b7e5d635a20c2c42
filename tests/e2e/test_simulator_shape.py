"""The engine simulator's responses have the shape of the real vLLM's, field by field."""

import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.stacks.local import Stack

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 6,
    "temperature": 0,
    "ignore_eos": True,
}
TEXT = {
    "model": MODEL,
    "prompt": "The capital of France is",
    "max_tokens": 4,
    "temperature": 0,
    "ignore_eos": True,
}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
RESPONSES = {"model": MODEL, "input": "Hello", "max_output_tokens": 2, "temperature": 0}
MESSAGES = {"model": MODEL, "max_tokens": 6, "messages": CHAT["messages"]}

# Several choices or prompts are missing here, because the simulator refuses them by name.
ANSWERS: dict[str, tuple[str, str, Any]] = {
    "chat": ("POST", "/v1/chat/completions", CHAT),
    "chat with log probabilities": (
        "POST",
        "/v1/chat/completions",
        {**CHAT, "logprobs": True, "top_logprobs": 2},
    ),
    "completion": ("POST", "/v1/completions", TEXT),
    "completion with log probabilities": ("POST", "/v1/completions", {**TEXT, "logprobs": 1}),
    "completion of tokens": ("POST", "/v1/completions", {**TEXT, "prompt": [504, 3575, 282]}),
    "responses": ("POST", "/v1/responses", RESPONSES),
    "messages": ("POST", "/v1/messages", MESSAGES),
    "tokenize": ("POST", "/tokenize", {"model": MODEL, "prompt": "Hello there"}),
    "tokenize a conversation": ("POST", "/tokenize", {"model": MODEL, "messages": CHAT["messages"]}),
    "detokenize": ("POST", "/detokenize", {"model": MODEL, "tokens": [504, 3575]}),
    "models": ("GET", "/v1/models", None),
    "version": ("GET", "/version", None),
    "health": ("GET", "/health", None),
    "load": ("GET", "/load", None),
    "an unknown model": ("POST", "/v1/chat/completions", {**CHAT, "model": "nobody"}),
    "an unknown model, responses": ("POST", "/v1/responses", {**RESPONSES, "model": "nobody"}),
    "too many tokens": ("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 10_000_000}),
    "a prompt too long": ("POST", "/v1/completions", {**TEXT, "prompt": "word " * 20_000}),
    "no messages": ("POST", "/v1/chat/completions", {"model": MODEL}),
    "messages of a wrong type": ("POST", "/v1/chat/completions", {**CHAT, "messages": "hello"}),
    "a top_p out of range": ("POST", "/v1/completions", {**TEXT, "top_p": 2}),
    "a temperature that is no number": ("POST", "/v1/chat/completions", {**CHAT, "temperature": "x"}),
    "no choice": ("POST", "/v1/chat/completions", {**CHAT, "n": 0}),
    "a temperature out of range": ("POST", "/v1/chat/completions", {**CHAT, "temperature": -1}),
    "not JSON": ("POST", "/v1/chat/completions", "{"),
    "an unknown path": ("GET", "/v1/nothing", None),
    "a wrong method": ("GET", "/v1/chat/completions", None),
}
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "chat with usage": ("/v1/chat/completions", {**CHAT, **USAGE}),
    "chat with continuous usage": (
        "/v1/chat/completions",
        {**CHAT, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ),
    "chat with log probabilities": (
        "/v1/chat/completions",
        {**CHAT, "stream": True, "logprobs": True, "top_logprobs": 1},
    ),
    "completion": ("/v1/completions", {**TEXT, "stream": True}),
    "completion with log probabilities": ("/v1/completions", {**TEXT, "stream": True, "logprobs": 1}),
    "completion with usage": ("/v1/completions", {**TEXT, **USAGE}),
    "responses": ("/v1/responses", {**RESPONSES, "stream": True}),
    "messages": ("/v1/messages", {**MESSAGES, "stream": True}),
}


# /v1/completions uses the tokens as keys, and they differ.
BY_TOKEN = {"top_logprobs"}


@dataclass(frozen=True)
class Engines:
    """Addresses of a real engine and of a simulated one."""

    real: str
    simulated: str


@pytest.fixture(scope="module")
def engines(vllm_stack: Stack, sim_stack: Stack) -> Engines:
    return Engines(vllm_stack.url("ENGINE_A_PORT"), sim_stack.url("ENGINE_A_PORT"))


def shape(value: Any) -> Any:
    """Return ``value`` with every scalar replaced by the name of its type, every list by its distinct shapes."""
    if isinstance(value, dict):
        return {key: _by_token(inner) if key in BY_TOKEN else shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        distinct = {json.dumps(shape(inner), sort_keys=True) for inner in value}
        return [json.loads(text) for text in sorted(distinct)]
    return type(value).__name__


def _by_token(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(inner, dict) for inner in value):
        floats = all(isinstance(number, float) for inner in value for number in inner.values())
        return "floats by token" if floats else shape(value)
    return shape(value)


def differences(real: Any, simulated: Any, path: str = "") -> list[str]:
    """Return the fields in which two shapes differ, each with both sides."""
    if isinstance(real, dict) and isinstance(simulated, dict):
        found = []
        for key in sorted(real.keys() | simulated.keys()):
            found += differences(real.get(key, "nothing"), simulated.get(key, "nothing"), f"{path}.{key}")
        return found
    if isinstance(real, list) and isinstance(simulated, list) and len(real) == len(simulated):
        return [
            d
            for i, (a, b) in enumerate(zip(real, simulated, strict=True))
            for d in differences(a, b, f"{path}[{i}]")
        ]
    return [] if real == simulated else [f"{path}: vLLM has {real}, the simulator {simulated}"]


def answer(base: str, method: str, path: str, body: Any) -> dict[str, Any]:
    raw = body if isinstance(body, str) else None if body is None else json.dumps(body)
    headers = {} if raw is None else {"content-type": "application/json"}
    response = httpx.request(method, base + path, content=raw, headers=headers, timeout=120)
    kind = response.headers.get("content-type", "")
    return {
        "status": str(response.status_code),
        "content-type": kind,
        "body": shape(response.json())
        if kind.startswith("application/json") and response.content
        else response.text,
    }


def events(base: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the distinct shapes of a stream's events in the order of their first appearance."""
    response = httpx.post(base + path, json=body, timeout=120)
    seen: dict[str, Any] = {}
    for block in response.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        data = fields["data"]
        found = data if data == "[DONE]" else shape(json.loads(data))
        seen.setdefault(
            json.dumps([fields.get("event"), found], sort_keys=True), [fields.get("event") or "-", found]
        )
    return {
        "status": str(response.status_code),
        "content-type": response.headers["content-type"],
        "events": {f"{i} {name}": found for i, (name, found) in enumerate(seen.values())},
    }


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_has_the_same_fields(engines: Engines, case: str) -> None:
    method, path, body = ANSWERS[case]
    real, simulated = (answer(base, method, path, body) for base in (engines.real, engines.simulated))
    assert differences(real, simulated) == []


@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_has_the_same_events(engines: Engines, case: str) -> None:
    path, body = STREAMS[case]
    real, simulated = (events(base, path, body) for base in (engines.real, engines.simulated))
    assert differences(real, simulated) == []


def families(base: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return type and label names of every ``vllm:`` metric."""
    text = httpx.get(f"{base}/metrics", timeout=30).text
    return {
        family.name: (family.type, frozenset(label for sample in family.samples for label in sample.labels))
        for family in text_string_to_metric_families(text)
        if family.name.startswith("vllm:")
    }


def test_every_metric_of_the_simulator_is_one_of_vllm_with_its_type_and_labels(engines: Engines) -> None:
    for base in (engines.real, engines.simulated):
        httpx.post(f"{base}/v1/chat/completions", json=CHAT, timeout=120).raise_for_status()
    real, simulated = families(engines.real), families(engines.simulated)
    assert len(simulated) > 10
    # Its labels are vLLM's whole cache configuration; the simulator has only the labels that something reads.
    assert simulated.pop("vllm:cache_config_info")[1] <= real["vllm:cache_config_info"][1]
    assert {name: real.get(name) for name in simulated} == simulated


def test_the_comparison_finds_a_missing_field_and_a_wrong_type() -> None:
    real = shape({"id": "x", "choices": [{"index": 0, "text": "a"}], "usage": None})
    assert differences(real, shape({"id": "y", "choices": [{"index": 7, "text": "b"}], "usage": None})) == []
    assert differences(real, shape({"id": 1, "choices": [{"index": 0}], "usage": None})) == [
        ".choices[0].text: vLLM has str, the simulator nothing",
        ".id: vLLM has str, the simulator int",
    ]
