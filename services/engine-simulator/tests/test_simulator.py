"""The simulator as a process: vLLM's answers, its metrics, and the effect of every fault on a client."""

import asyncio
import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from engine_simulator.faults import Fault, Kind
from harness.ports import free_port
from harness.processes import answers, running
from harness.waiting import eventually
from platform_contracts.event_streams import DONE, events

pytestmark = pytest.mark.service
SIMULATOR = Path(__file__).parents[3] / ".venv" / "bin" / "engine-simulator"
README = Path(__file__).parents[1] / "README.md"
TOOL = {"type": "function", "name": "now", "function": {"name": "now"}}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "ignore_eos": True, "max_tokens": 6}


@contextlib.contextmanager
def started(folder: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [SIMULATOR, "serve", "--port", str(port), "--model", "m", "--step-seconds", "0.005"]
    with running(command, log=folder / "simulator.log", ready=answers(f"{url}/health")):
        yield url


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("simulator")) as url:
        yield url


@pytest.fixture
def simulator(shared: str) -> Iterator[str]:
    """The simulator of all tests that read no total, without faults."""
    yield shared
    httpx.delete(f"{shared}/sim/faults").raise_for_status()
    assert state(shared)["faults"] == {}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[str]:
    """A simulator whose totals begin at zero."""
    with started(tmp_path) as url:
        yield url


def state(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/sim/state").json()
    return found


def fault(url: str, kind: str, **more: Any) -> None:
    httpx.post(f"{url}/sim/faults", json={"kind": kind, **more}).raise_for_status()


def streamed(url: str, **more: Any) -> bytes:
    response = httpx.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True, **more}, timeout=10)
    return response.content


def test_a_stream_has_role_text_usage_and_done_and_the_same_text_as_an_unstreamed_answer(
    simulator: str,
) -> None:
    found = list(events([streamed(simulator)]))
    assert found[-1] == DONE
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


def test_a_client_that_leaves_aborts_its_request(fresh: str) -> None:
    with httpx.stream(
        "POST", f"{fresh}/v1/chat/completions", json={**CHAT, "stream": True, "max_tokens": 2000}
    ) as response:
        next(response.iter_bytes())
    eventually(lambda: state(fresh)["running"] == 0, "the engine has dropped it")
    assert state(fresh)["finished"] == {"abort": 1}
    metrics = httpx.get(f"{fresh}/metrics").text
    assert re.search(r'vllm:request_success_total\{.*finished_reason="abort".*\} 1\.0', metrics)


def test_tokens_are_counted_once_and_agree_with_the_answers(fresh: str) -> None:
    for _ in range(3):
        streamed(fresh)
    found = state(fresh)
    assert found["generation_tokens"] == 18
    assert found["prefix_hits"] > 0


def test_a_cut_stream_ends_without_its_terminating_chunk(fresh: str) -> None:
    fault(fresh, "die_mid_stream", after_chunks=2, count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        streamed(fresh)
    assert state(fresh)["fault_hits"] == {"die_mid_stream": 1}
    assert list(events([streamed(fresh)]))[-1] == DONE


def test_a_clean_truncation_looks_like_success_to_http(simulator: str) -> None:
    fault(simulator, "clean_truncation", after_chunks=2, count=1)
    assert b"[DONE]" not in streamed(simulator)


def test_an_engine_announces_its_death_in_band_and_still_says_done(simulator: str) -> None:
    fault(simulator, "error_event", after_chunks=1, count=1)
    found = list(events([streamed(simulator)]))
    assert json.loads(found[-2])["error"]["code"] == 500
    assert found[-1] == DONE


@pytest.mark.parametrize("kind", ["stall_first_byte", "stall_mid_stream"])
def test_a_stall_is_silence_and_then_the_answer(fresh: str, kind: str) -> None:
    fault(fresh, kind, after_chunks=2, seconds=0.6, count=1)
    began = time.monotonic()
    arrived = []
    with httpx.stream("POST", f"{fresh}/v1/chat/completions", json={**CHAT, "stream": True}) as response:
        for _ in response.iter_bytes():
            arrived.append(time.monotonic() - began)
    assert arrived[-1] >= 0.6
    assert kind == "stall_mid_stream" or arrived[0] >= 0.6
    assert state(fresh)["fault_hits"] == {kind: 1}


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


@pytest.fixture
def controlled(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A simulator that listens on every address: its URL and its control port."""
    port, control = free_port(), free_port()
    command = [SIMULATOR, "serve", "--host", "0.0.0.0", "--port", str(port), "--control-port", str(control)]
    command += ["--model", "m", "--step-seconds", "0.005"]
    url = f"http://127.0.0.1:{port}"
    with running(command, log=tmp_path / "simulator.log", ready=answers(f"{url}/health")):
        yield url, control


def test_an_engine_port_on_every_address_takes_no_fault(controlled: tuple[str, int]) -> None:
    url, control = controlled
    for path in ("/sim/state", "/sim/faults", "/sim/dcgm"):
        assert httpx.get(f"{url}{path}").status_code == 404
    assert httpx.post(f"{url}/sim/faults", json={"kind": "wedge"}).status_code == 404
    assert state(f"http://127.0.0.1:{control}")["faults"] == {}


def test_the_control_port_survives_refuse_and_ends_it_early(controlled: tuple[str, int]) -> None:
    url, control = controlled
    fault(f"http://127.0.0.1:{control}", "refuse", seconds=600)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")
    done = subprocess.run(
        [SIMULATOR, "fault", "--port", str(control), "clear"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert httpx.get(f"{url}/health").status_code == 200


def test_the_fault_command_sets_faults_and_refuses_unknown_ones(controlled: tuple[str, int]) -> None:
    url, control = controlled
    command = [SIMULATOR, "fault", "--port", str(control)]
    set_one = [*command, '{"kind": "http_error", "status": 502, "count": 1}']
    assert subprocess.run(set_one, capture_output=True, check=False).returncode == 0
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 502
    wrong = subprocess.run([*command, '{"kind": "gremlins"}'], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "kind" in wrong.stdout


def test_a_refusal_without_a_duration_is_short() -> None:
    assert Fault(kind="refuse").seconds <= 10


@pytest.mark.parametrize(
    ("path", "field", "more"),
    [
        ("/v1/chat/completions", "tools", {"tools": [TOOL]}),
        ("/v1/chat/completions", "tool_choice", {"tools": [TOOL], "tool_choice": "required"}),
        ("/v1/chat/completions", "tool_choice", {"tools": [TOOL], "tool_choice": {"type": "function"}}),
        ("/v1/chat/completions", "response_format", {"response_format": {"type": "json_schema"}}),
        ("/v1/chat/completions", "response_format", {"response_format": {"type": "json_object"}}),
        ("/v1/completions", "structured_outputs", {"structured_outputs": {"regex": "a"}}),
        ("/v1/responses", "tools", {"tools": [TOOL]}),
        ("/v1/responses", "text.format", {"text": {"format": {"type": "json_schema"}}}),
        ("/v1/messages", "tools", {"tools": [TOOL]}),
        ("/v1/messages", "tool_choice", {"tools": [TOOL], "tool_choice": {"type": "any"}}),
        ("/v1/messages", "output_config.format", {"output_config": {"format": {"type": "json_schema"}}}),
    ],
)
def test_what_it_does_not_imitate_it_refuses_by_field(
    simulator: str, path: str, field: str, more: dict[str, Any]
) -> None:
    body = {**CHAT, "prompt": "hello", "input": "hello"}
    assert httpx.post(f"{simulator}{path}", json=body).status_code == 200
    refused = httpx.post(f"{simulator}{path}", json={**body, **more})
    assert refused.status_code == 501
    assert refused.json()["error"]["message"].startswith(f"{field}: ")


def test_tools_that_may_not_be_called_change_nothing(simulator: str) -> None:
    body = {**CHAT, "tools": [TOOL], "tool_choice": "none", "response_format": {"type": "text"}}
    assert httpx.post(f"{simulator}/v1/chat/completions", json=body).status_code == 200


def first_bytes(url: str, path: str, body: dict[str, Any]) -> str:
    """Return what a stream sends first."""
    with httpx.stream("POST", f"{url}{path}", json={**body, "stream": True}, timeout=10) as response:
        return next(response.iter_bytes()).decode()


def test_a_messages_stream_begins_with_its_first_token_and_a_responses_stream_before(simulator: str) -> None:
    fault(simulator, "long_prefill", seconds=0.5)
    messages = first_bytes(simulator, "/v1/messages", CHAT)
    assert messages.startswith("event: message_start")
    assert "event: content_block_delta" in messages
    responses = first_bytes(simulator, "/v1/responses", {"model": "m", "input": "hello"})
    assert responses.startswith("event: response.created")
    assert "response.output_text.delta" not in responses


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_faults_hit_the_streams_of_every_api(simulator: str, path: str) -> None:
    body = {"model": "m", "input": "hello", "messages": CHAT["messages"], "ignore_eos": True, "stream": True}
    fault(simulator, "error_event", after_chunks=2, count=1)
    found = httpx.post(f"{simulator}{path}", json=body, timeout=10).text
    names = [line.removeprefix("event: ") for line in found.splitlines() if line.startswith("event: ")]
    assert names[-1] == "error"
    assert sum(name.endswith("delta") for name in names) == 2
    fault(simulator, "die_mid_stream", after_chunks=1, count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{simulator}{path}", json=body, timeout=10)
    fault(simulator, "die_mid_stream", count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{simulator}{path}", json={**body, "stream": False}, timeout=10)


def test_the_readme_lists_every_fault() -> None:
    text = README.read_text()
    listed = re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(get_args(Kind))
