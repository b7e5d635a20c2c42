"""A real engine that is killed leaves nothing behind, is replaced, and meanwhile the other one answers."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.stacks import Stack

pytestmark = [pytest.mark.platform, pytest.mark.timeout(700)]
RESTART_SECONDS = 300.0


def until(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)


def group_members(group: int) -> set[int]:
    """Return the live processes of a process group."""
    members = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                members.add(int(folder.name))
    return members


def test_a_killed_engine_takes_its_workers_along_and_comes_back_warm(vllm_stack: Stack) -> None:
    engine = vllm_stack.states()["backend-a"]["pid"]
    assert len(group_members(engine)) > 1, "the engine has worker processes"
    os.kill(engine, signal.SIGKILL)
    until(lambda: not group_members(engine), 30)

    answer = httpx.post(
        f"{vllm_stack.edge}/v1/chat/completions",
        json={
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "temperature": 0,
            "max_tokens": 16,
        },
        headers={"authorization": f"Bearer {vllm_stack.key}"},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-route-backend"] == "backend-b"

    until(lambda: all(row["why"] is None for row in vllm_stack.states().values()), RESTART_SECONDS)
    assert vllm_stack.states()["backend-a"]["pid"] != engine
