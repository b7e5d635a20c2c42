"""A killed vLLM leaves no process behind and is restarted; meanwhile the other engine answers."""

import concurrent.futures
import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from harness.judges.streamed_answers import ask_streamed
from harness.servers.router_fleet import fleet_in
from harness.stacks.local import Stack
from harness.waiting import eventually

pytestmark = [pytest.mark.platform, pytest.mark.timeout(700)]
RESTART_SECONDS = 300.0
STUCK_SECONDS = 15.5  # 15 s plus half a second of polling


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


@pytest.mark.full
def test_a_killed_engine_takes_its_workers_along_and_comes_back_warm(vllm_stack: Stack) -> None:
    engine = vllm_stack.states()["backend-a"]["pid"]
    assert len(group_members(engine)) > 1, "the engine has worker processes"
    os.kill(engine, signal.SIGKILL)
    eventually(lambda: not group_members(engine), "every process of the engine is gone", 30)

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

    eventually(
        lambda: all(row["why"] is None for row in vllm_stack.states().values()),
        "every part is ready",
        RESTART_SECONDS,
    )
    assert vllm_stack.states()["backend-a"]["pid"] != engine


def engine_core(engine: int) -> int:
    """Return the process that runs the model: the server's busiest child, while it answers health checks."""
    children = psutil.Process(engine).children(recursive=True)
    return max(children, key=lambda one: one.memory_info().rss).pid


def test_a_frozen_engine_core_is_called_stuck_within_15_seconds_and_works_again_when_it_moves(
    vllm_stack: Stack,
) -> None:
    """vLLM's API server still answers /health and /metrics, so only tokens and CPU time reveal the fault."""
    agent = vllm_stack.url("AGENT_A_PORT", "/status")
    engine_url = vllm_stack.url("ENGINE_A_PORT")
    core = engine_core(vllm_stack.states()["backend-a"]["pid"])
    stop = threading.Event()

    def ask_for_ever() -> None:
        body = {
            "model": "smollm2-135m-instruct",
            "prompt": "Once upon a time",
            "max_tokens": 400,
            "stream": True,
        }
        while not stop.is_set():
            with (
                contextlib.suppress(httpx.HTTPError),
                httpx.Client(timeout=10) as http,
                http.stream("POST", f"{engine_url}/v1/completions", json=body) as answer,
            ):
                for _ in answer.iter_bytes():
                    if stop.is_set():
                        return

    asking = threading.Thread(target=ask_for_ever)
    asking.start()
    try:
        eventually(
            lambda: httpx.get(agent).json()["state"] in ("working", "saturated"),
            "it works",
            30,
        )
        eventually(
            lambda: len(httpx.get(agent).json()["baseline"]["busy"]) > 0, "the agent knows what busy is", 60
        )
        # A stalled machine only delays detection, so the best of three counts.
        took: list[float] = []
        while not took or (min(took) > STUCK_SECONDS and len(took) < 3):
            time.sleep(5)
            took.append(freeze(core, agent))
            status = httpx.get(agent).json()
            health = httpx.get(f"{engine_url}/health", timeout=5).status_code
            print(f"\nstuck after {took[-1]:.1f} s, /health {health}: {status['evidence']}")
            assert any("CPU" in line for line in status["evidence"])
            assert httpx.get(vllm_stack.url("AGENT_A_PORT", "/readyz")).status_code == 503
            os.kill(core, signal.SIGCONT)
            eventually(
                lambda: httpx.get(agent).json()["state"] in ("working", "saturated"),
                "it works",
                60,
            )
        assert min(took) <= STUCK_SECONDS, took
    finally:
        os.kill(core, signal.SIGCONT)
        stop.set()
        asking.join(30)


def freeze(core: int, agent: str) -> float:
    """Stop the engine core and return the seconds until its agent reports `stuck`."""
    os.kill(core, signal.SIGSTOP)
    frozen = time.monotonic()
    eventually(lambda: psutil.Process(core).status() == psutil.STATUS_STOPPED, "the core is stopped", 5)
    eventually(lambda: httpx.get(agent).json()["state"] == "stuck", "the agent says stuck", 45)
    return time.monotonic() - frozen


def generated(engine_url: str) -> float:
    lines = httpx.get(f"{engine_url}/metrics").text.splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:generation_tokens_total")
    )


def test_a_killed_engine_core_ends_no_stream_as_if_it_were_whole_and_a_resumed_one_goes_on(
    vllm_stack: Stack, tmp_path: Path
) -> None:
    """Only the core dies. vLLM's API server keeps running, sends an error event, and ends its streams properly."""
    first, second = vllm_stack.url("ENGINE_A_PORT"), vllm_stack.url("ENGINE_B_PORT")
    model = "smollm2-135m-instruct"
    rule = {"name": "resumed", "when": {"header": {"x-resume": "yes"}}, "route_to": "general", "resume": True}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"rules": [rule]}))
    body = {
        "model": model, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 120, "ignore_eos": True,
    }  # fmt: skip
    whole = ask_streamed(second, "/v1/completions", body)
    assert whole.problems == []
    engine = vllm_stack.states()["backend-a"]["pid"]
    with fleet_in(tmp_path) as fleet, concurrent.futures.ThreadPoolExecutor(2) as threads:
        pools = {
            "general": {"models": [model], "backends": {"first": {"url": first}}},
            "spare": {"models": [model], "backends": {"second": {"url": second}}},
        }
        routing = {"default_pool": "general", "fallback": {"general": ["spare"]}, "rules_file": "rules.yaml"}
        timeouts = {"connect_seconds": 2, "first_token_seconds": 60, "idle_seconds": 60, "total_seconds": 300}
        router = fleet.add_router(wait_usable=1, pools=pools, routing=routing, timeouts=timeouts)
        before = generated(first)
        asked = [
            threads.submit(ask_streamed, router.url, "/v1/completions", body, headers)
            for headers in ({}, {"x-resume": "yes"})
        ]
        eventually(lambda: generated(first) >= before + 20, "the engine has generated", 60)
        os.kill(engine_core(engine), signal.SIGKILL)
        plain, resumed = (answer.result(300) for answer in asked)
        attempts = [router.record(a.headers["x-request-id"])["attempts"] for a in (plain, resumed)]
    print("\nattempts:", [[(a["backend"], a["outcome"]) for a in one] for one in attempts])
    assert [one[0]["backend"] for one in attempts] == ["first", "first"]
    assert attempts[0][0]["outcome"] in ("engine_error", "broken")
    assert "no [DONE]" in plain.problems
    assert any(problem.startswith("error event") for problem in plain.problems)
    assert plain.text
    assert whole.text.startswith(plain.text)
    assert resumed.problems == []
    assert resumed.text == whole.text
    assert resumed.usage == whole.usage
    eventually(
        lambda: (
            vllm_stack.states()["backend-a"]["pid"] != engine
            and all(row["why"] is None for row in vllm_stack.states().values())
        ),
        "another engine is ready",
        RESTART_SECONDS,
    )
