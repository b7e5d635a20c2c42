"""A warm-up sends what its plan says, to a real process, and says why it failed."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backend_agent.model_file import WarmUp
from backend_agent.warm_up import WarmUpFailed, warm_up
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.scripted_engine import scripted_engine

pytestmark = pytest.mark.service
SIMULATOR = Path(__file__).parents[3] / ".venv" / "bin" / "engine-simulator"
PLAN = WarmUp(prompt_words=[4, 40], concurrent=3, max_tokens=5, max_rounds=2, settled_factor=100)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [SIMULATOR, "serve", "--port", str(port), "--model", "m", "--step-seconds", "0.001"]
    command += ["--max-model-len", "2048"]
    with running(command, log=tmp_path / "engine.log", ready=answers(f"{url}/health")):
        yield url


async def test_each_round_is_a_batch_of_short_and_long_prompts(engine: str) -> None:
    async with httpx.AsyncClient() as http:
        rounds = await warm_up(http, engine, "m", PLAN, 2048)
        state = (await http.get(f"{engine}/sim/state")).json()
    assert [one.tokens for one in rounds] == [30, 30], "2 prompts of 3 at a time, 5 tokens each"
    assert state["generation_tokens"] == 60


async def test_the_longest_prompt_fills_the_context_to_the_last_token(engine: str) -> None:
    longest = PLAN.model_copy(update={"longest_prompt": True})
    async with httpx.AsyncClient() as http:
        before = (await http.get(f"{engine}/metrics")).text
        await warm_up(http, engine, "m", longest, 2048)
        text = (await http.get(f"{engine}/metrics")).text
        with pytest.raises(WarmUpFailed, match="the engine answers 400"):
            await warm_up(http, engine, "m", longest, 2049)
    assert prompt_tokens(before) == 0
    assert prompt_tokens(text) >= 2048 - PLAN.max_tokens


async def test_a_line_separator_inside_a_completion_ends_no_event() -> None:
    """vLLM writes U+2028 as it is; the line iterator of httpx splits there, and the halves are no JSON."""
    event = json.dumps({"choices": [{"text": "one\u2028two"}]}, ensure_ascii=False)
    body = f"data: {event}\n\ndata: [DONE]\n\n".encode()
    with scripted_engine() as engine:
        engine.script = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)]
        async with httpx.AsyncClient() as http:
            rounds = await warm_up(http, engine.url, "m", PLAN, 2048)
    assert [one.tokens for one in rounds] == [6, 6], "2 prompts of 3 at a time, one token each"


def prompt_tokens(metrics: str) -> float:
    lines = [line for line in metrics.splitlines() if line.startswith("vllm:prompt_tokens_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
