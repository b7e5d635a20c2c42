"""The simulator as a process: vLLM's answers, its metrics, and every fault as it is felt from outside."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.ports import free_port
from harness.processes import answers, running
from harness.waiting import eventually

pytestmark = pytest.mark.service
SIMULATOR = Path(__file__).parents[4] / ".venv" / "bin" / "engine-simulator"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "ignore_eos": True, "max_tokens": 6}


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [SIMULATOR, "serve", "--port", str(port), "--model", "m", "--step-seconds", "0.005"]
    with running(command, log=tmp_path / "simulator.log", ready=answers(f"{url}/health")):
        yield url


def state(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/sim/state").json()
    return found


def fault(url: str, kind: str, **more: Any) -> None:
    httpx.post(f"{url}/sim/faults", json={"kind": kind, **more}).raise_for_status()


def events(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def streamed(url: str, **more: Any) -> str:
    response = httpx.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True, **more}, timeout=10)
    return response.text


def test_a_stream_has_role_text_usage_and_done_and_the_same_text_as_an_unstreamed_answer(
    simulator: str,
) -> None:
    found = events(streamed(simulator))
    assert found[-1] == "[DONE]"
    chunks = [json.loads(event) for event in found[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    assert chunks[-1]["metrics"]["time_to_first_token_ms"] > 0
    text = "".join(c["choices"][0]["delta"]["content"] for c in chunks if c["choices"])
    whole = httpx.post(f"{simulator}/v1/chat/completions", json=CHAT).json()
    assert whole["choices"][0]["message"]["content"] == text
    assert whole["choices"][0]["finish_reason"] == "length"


def test_a_stop_sequence_ends_the_answer_before_itself(simulator: str) -> None:
    whole = httpx.post(f"{simulator}/v1/chat/completions", json=CHAT).json()["choices"][0]["message"][
        "content"
    ]
    stop = whole.split(" ")[3]
    cut = httpx.post(f"{simulator}/v1/chat/completions", json={**CHAT, "stop": [stop]}).json()["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["message"]["content"] == whole[: whole.index(stop)]


def test_requests_vllm_refuses_are_refused_in_its_shape(simulator: str) -> None:
    unknown = httpx.post(f"{simulator}/v1/chat/completions", json={**CHAT, "model": "other"})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "NotFoundError")
    long = httpx.post(f"{simulator}/v1/completions", json={"model": "m", "prompt": "word " * 9000})
    assert (long.status_code, long.json()["error"]["type"]) == (400, "BadRequestError")


def test_a_client_that_leaves_aborts_its_request(simulator: str) -> None:
    with httpx.stream(
        "POST", f"{simulator}/v1/chat/completions", json={**CHAT, "stream": True, "max_tokens": 2000}
    ) as response:
        next(response.iter_bytes())
    eventually(lambda: state(simulator)["running"] == 0, "the engine has dropped it")
    assert state(simulator)["finished"] == {"abort": 1}
    metrics = httpx.get(f"{simulator}/metrics").text
    assert re.search(r'vllm:request_success_total\{.*finished_reason="abort".*\} 1\.0', metrics)


def test_tokens_are_counted_once_and_agree_with_the_answers(simulator: str) -> None:
    for _ in range(3):
        streamed(simulator)
    found = state(simulator)
    assert found["generation_tokens"] == 18
    assert found["prefix_hits"] > 0


def test_a_cut_stream_ends_without_its_terminating_chunk(simulator: str) -> None:
    fault(simulator, "die_mid_stream", after_chunks=2, count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        streamed(simulator)
    assert state(simulator)["fault_hits"] == {"die_mid_stream": 1}
    assert events(streamed(simulator))[-1] == "[DONE]"


def test_a_clean_truncation_looks_like_success_to_http(simulator: str) -> None:
    fault(simulator, "clean_truncation", after_chunks=2, count=1)
    assert "[DONE]" not in streamed(simulator)


def test_an_engine_announces_its_death_in_band_and_still_says_done(simulator: str) -> None:
    fault(simulator, "error_event", after_chunks=1, count=1)
    found = events(streamed(simulator))
    assert json.loads(found[-2])["error"]["code"] == 500
    assert found[-1] == "[DONE]"


@pytest.mark.parametrize("kind", ["stall_first_byte", "stall_mid_stream"])
def test_a_stall_is_silence_and_then_the_answer(simulator: str, kind: str) -> None:
    fault(simulator, kind, after_chunks=2, seconds=0.6, count=1)
    began = time.monotonic()
    arrived = []
    with httpx.stream("POST", f"{simulator}/v1/chat/completions", json={**CHAT, "stream": True}) as response:
        for _ in response.iter_bytes():
            arrived.append(time.monotonic() - began)
    assert arrived[-1] >= 0.6
    assert kind == "stall_mid_stream" or arrived[0] >= 0.6
    assert state(simulator)["fault_hits"] == {kind: 1}


def test_an_http_error_hits_as_many_requests_as_it_was_told(simulator: str) -> None:
    fault(simulator, "http_error", status=502, count=2)
    found = [httpx.post(f"{simulator}/v1/chat/completions", json=CHAT).status_code for _ in range(3)]
    assert found == [502, 502, 200]


def test_a_refusing_engine_does_not_listen_and_comes_back(simulator: str) -> None:
    fault(simulator, "refuse", seconds=3)

    def health() -> int:
        try:
            return httpx.get(f"{simulator}/health").status_code
        except httpx.TransportError:
            return 0

    eventually(lambda: health() == 0, "nobody listens")
    eventually(lambda: health() == 200, "it listens again")


def test_a_wedged_engine_answers_health_shows_a_busy_gpu_at_idle_power_and_no_token(simulator: str) -> None:
    fault(simulator, "wedge")
    before = state(simulator)["generation_tokens"]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{simulator}/v1/chat/completions", json=CHAT, timeout=0.7)
    found = state(simulator)
    assert httpx.get(f"{simulator}/health").status_code == 200
    assert found["generation_tokens"] == before
    assert found["device"]["utilization_ratio"] == 1.0
    assert found["device"]["power_watts"] < 40
    assert "DCGM_FI_DEV_GPU_UTIL" in httpx.get(f"{simulator}/sim/dcgm").text


def test_an_unknown_fault_is_refused_with_its_name(simulator: str) -> None:
    response = httpx.post(f"{simulator}/sim/faults", json={"kind": "gremlins"})
    assert response.status_code == 400
    assert "kind" in response.json()["error"]["message"]


def test_decoding_slows_with_company_and_a_full_line_waits(simulator: str) -> None:
    async def many(count: int) -> list[dict[str, Any]]:
        async with httpx.AsyncClient(timeout=30) as client:
            done = await asyncio.gather(
                *(client.post(f"{simulator}/v1/chat/completions", json=CHAT) for _ in range(count))
            )
        return [response.json() for response in done]

    found = asyncio.run(many(300))
    assert len({answer["choices"][0]["message"]["content"] for answer in found}) == 1
    assert max(answer["metrics"]["queue_time_ms"] for answer in found) > 5
