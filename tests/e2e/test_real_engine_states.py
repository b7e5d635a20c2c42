"""A vLLM that is full, or busy with one long prompt, is never reported as stuck. Long forms."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from harness.ports import free_port
from harness.processes import answers, running
from harness.stacks.local import ROOT, Stack
from platform_tools.local_stack.parts import engine_environment

pytestmark = [pytest.mark.platform, pytest.mark.full, pytest.mark.timeout(1200)]
MODEL = "smollm2-135m-instruct"
BIN = ROOT / ".venv" / "bin"
SATURATED_SECONDS = 600.0
CLIENTS = 40  # the model file allows 32 concurrent requests


class Watched:
    """Records an agent's state every second."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.ready: Counter[int] = Counter()
        self.longest_pause = 0.0
        self.tokens = 0.0

    async def watch(self, agent: str, done: Callable[[], bool]) -> None:
        moved, before = time.monotonic(), -1.0
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
            while not done():
                answer = await http.get(f"{agent}/readyz")
                document = answer.json()
                self.states[document["state"]] += 1
                self.ready[answer.status_code] += 1
                engine = document["engine"]
                now = engine.get("generated_tokens", 0.0) + engine.get("prompt_tokens", 0.0)
                if now != before:
                    self.longest_pause = max(self.longest_pause, time.monotonic() - moved)
                    moved, before = time.monotonic(), now
                self.tokens = now
                await asyncio.sleep(0.5)
            self.longest_pause = max(self.longest_pause, time.monotonic() - moved)

    def report(self, what: str) -> None:
        looks = sum(self.states.values())
        print(
            f"\n{what}: {looks} looks, said {dict(self.states)}, ready {dict(self.ready)}, longest time without a "
            f"token {self.longest_pause:.1f} s, {self.tokens:.0f} tokens; false stuck: {self.states['stuck']}"
        )


def test_ten_minutes_of_saturation_are_never_called_stuck(vllm_stack: Stack) -> None:
    engine, agent = vllm_stack.url("ENGINE_A_PORT"), vllm_stack.url("AGENT_A_PORT")
    watched = Watched()

    async def client(number: int, until: float) -> None:
        async with httpx.AsyncClient(timeout=600, trust_env=False) as http:
            asked = 0
            while time.monotonic() < until:
                asked += 1
                body = {
                    "model": MODEL,
                    "prompt": f"{number} {asked} " + "word " * (asked * 37 % 400),
                    "max_tokens": 120,
                    "ignore_eos": True,
                    "stream": True,
                }
                async with http.stream("POST", f"{engine}/v1/completions", json=body) as answer:
                    async for _ in answer.aiter_bytes():
                        if time.monotonic() > until:
                            return

    async def saturate() -> None:
        until = time.monotonic() + SATURATED_SECONDS
        await asyncio.gather(
            watched.watch(agent, lambda: time.monotonic() > until),
            *(client(number, until) for number in range(CLIENTS)),
        )

    asyncio.run(saturate())
    watched.report(f"{SATURATED_SECONDS:.0f} s of {CLIENTS} clients on vLLM")
    assert watched.states["stuck"] == 0
    assert set(watched.ready) == {200}, "a full engine stays in"
    assert watched.states["saturated"] > 0.8 * sum(watched.states.values())


@contextlib.contextmanager
def long_step_engine(folder: Path) -> Iterator[tuple[str, str]]:
    """Run vLLM with steps of up to 32,768 tokens and its agent; yield their URLs."""
    document = yaml.safe_load((ROOT / f"services/inference-backend/models/{MODEL}.yaml").read_text())
    document["engine"] |= {
        "max_model_len": 8192,
        "max_num_seqs": 4,
        "arguments": ["--enforce-eager", "--max-num-batched-tokens", "32768", "--no-enable-prefix-caching"],
        "environment": {"VLLM_CPU_KVCACHE_SPACE": "2"},
    }
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump(document))
    port, agent_port = free_port(), free_port()
    engine, agent = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{agent_port}"
    start: list[str | Path] = [BIN / "backend-agent", "start-engine", "--model-file", file]
    start += ["--model-path", ROOT / ".run" / "models" / MODEL, "--port", str(port)]
    start += ["--python", ROOT / ".venv-vllm" / "bin" / "python"]
    serve: list[str | Path] = [BIN / "backend-agent", "serve", "--name", "long", "--engine-url", engine]
    serve += ["--port", str(agent_port), "--model-file", file, "--device", "process"]
    with (
        running(
            start,
            log=folder / "engine.log",
            ready=answers(f"{engine}/health"),
            ready_seconds=240,
            env=engine_environment(),
        ),
        running(serve, log=folder / "agent.log", ready=answers(f"{agent}/readyz"), ready_seconds=240),
    ):
        yield engine, agent


async def first_token_seconds(engine: str, number: int) -> float:
    """Send a prompt of 7,900 tokens, different for each ``number``; return the time to first token in seconds."""
    prompt = [(number * 7 + place) % 40_000 + 100 for place in range(7_900)]
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 4, "ignore_eos": True, "stream": True}
    began = time.monotonic()
    async with (
        httpx.AsyncClient(timeout=600, trust_env=False) as http,
        http.stream("POST", f"{engine}/v1/completions", json=body) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                return time.monotonic() - began
    raise AssertionError("the stream ended without a token")


def test_a_prompt_that_prefills_for_half_a_minute_is_never_called_stuck(tmp_path: Path) -> None:
    """Three prompts of 7,900 tokens in one engine step: no counter moves until the step ends."""
    watched = Watched()

    async def prefill(engine: str, agent: str) -> list[float]:
        over = False
        watching = asyncio.create_task(watched.watch(agent, lambda: over))
        seconds = await asyncio.gather(*(first_token_seconds(engine, number) for number in range(3)))
        over = True
        await watching
        return seconds

    with long_step_engine(tmp_path) as (engine, agent):
        seconds = asyncio.run(prefill(engine, agent))
    watched.report(f"first tokens after {[round(one, 1) for one in seconds]} s on vLLM")
    assert watched.longest_pause > 25, "the test needs a prefill of half a minute"
    assert watched.states["stuck"] == 0
    assert set(watched.ready) == {200}
