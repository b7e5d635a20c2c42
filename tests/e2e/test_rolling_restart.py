"""Both engines are restarted one after another under constant load: nothing fails, nothing is cut short."""

import asyncio
import json
import os
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import pytest

from harness.stacks import ROOT, Stack

MODEL = "smollm2-135m-instruct"


@dataclass
class Seen:
    """What clients saw: good answers, by backend, and everything else in words."""

    good: int = 0
    backends: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


async def _ask(http: httpx.AsyncClient, stack: Stack, key: str, number: int, tokens: int, seen: Seen) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Tell me of the number {number}"}],
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"authorization": f"Bearer {key}"}
    try:
        async with http.stream(
            "POST", f"{stack.edge}/v1/chat/completions", json=body, headers=headers
        ) as answer:
            text = (await answer.aread()).decode()
    except httpx.HTTPError as error:
        seen.bad.append(f"{number}: {type(error).__name__} {error}")
        return
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if answer.status_code != 200 or not events or events[-1] != "[DONE]":
        seen.bad.append(f"{number}: {answer.status_code} {text[-200:]}")
        return
    usage = next(json.loads(event)["usage"] for event in reversed(events[:-1]) if '"usage":{' in event)
    if usage["completion_tokens"] != tokens:
        seen.bad.append(f"{number}: {usage['completion_tokens']} of {tokens} tokens")
        return
    seen.good += 1
    seen.backends[answer.headers["x-route-backend"]] += 1


async def _load(
    stack: Stack, rate: float, tokens: int, restart: "subprocess.Popen[str]", after: float
) -> Seen:
    """Send at a constant rate, whatever the answers, until the restart is over and some time after it."""
    seen = Seen()
    key = stack.client_environment()["OPENAI_API_KEY_LOAD"]
    limits = httpx.Limits(max_connections=None)
    tasks: set[asyncio.Task[None]] = set()
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as http:
        due = time.monotonic()
        number = 0
        until: float | None = None
        while until is None or time.monotonic() < until:
            if until is None and restart.poll() is not None:
                until = time.monotonic() + after
            number += 1
            tasks.add(asyncio.create_task(_ask(http, stack, key, number, tokens, seen)))
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*tasks)
    return seen


def _restart_under_load(stack: Stack, rate: float, tokens: int) -> Seen:
    before = {name: row["pid"] for name, row in stack.states().items()}
    restart = subprocess.Popen(
        stack.command("restart-engines"),
        env={**os.environ, **stack.environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seen = asyncio.run(_load(stack, rate, tokens, restart, after=3))
    said = restart.communicate(timeout=10)[0]
    assert restart.returncode == 0, said
    after = stack.states()
    for name in ("backend-a", "backend-b"):
        assert after[name]["pid"] != before[name], f"{name} was restarted"
    for name in ("router", "edge"):
        assert after[name]["pid"] == before[name]
    print(f"\n{seen.good} good, {len(seen.bad)} bad; by backend {dict(seen.backends)}")
    assert seen.bad == []
    assert set(seen.backends) == {"backend-a", "backend-b"}, "each took over for the other"
    return seen


@pytest.mark.service
@pytest.mark.timeout(240)
def test_simulated_engines_are_restarted_at_25_requests_a_second(sim_stack: Stack) -> None:
    seen = _restart_under_load(sim_stack, rate=25, tokens=32)
    assert seen.good > 100


@pytest.mark.platform
@pytest.mark.timeout(900)
def test_real_engines_are_restarted_under_constant_load(vllm_stack: Stack) -> None:
    seen = _restart_under_load(vllm_stack, rate=0.5, tokens=24)
    assert seen.good > 20
