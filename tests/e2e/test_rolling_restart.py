"""Engines restart under constant load: no request fails, no stream is cut, no request reaches a cold engine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.chaos.load import Answer, Ending
from harness.chaos.world import steady_load
from harness.stacks.asked_platform import load_key
from harness.stacks.local import ROOT, Stack, new_stack
from harness.waiting import eventually

MODEL = "smollm2-135m-instruct"
ENGINES = ("backend-a", "backend-b")


@dataclass(frozen=True)
class Seen:
    """What clients observed."""

    answers: Sequence[Answer]

    @property
    def bad(self) -> list[Answer]:
        return [one for one in self.answers if one.ending is not Ending.GOOD]

    @property
    def backends(self) -> Counter[str]:
        """Return the number of successful requests by backend."""
        return Counter(one.backend for one in self.answers if one.ending is Ending.GOOD)

    @property
    def good(self) -> int:
        return self.backends.total()


def _load(stack: Stack, rate: float, tokens: int, done: Callable[[], bool], after: float) -> Seen:
    """Send at a constant rate, independent of the responses, until ``after`` seconds after ``done``."""
    path = stack.run_dir / f"load-{time.monotonic_ns()}.jsonl"
    options = ("--silence-seconds", "120")
    with steady_load(load_key(stack), path, rate, tokens, *options, url=stack.edge) as load:
        eventually(done, "the restart is over", 600, 0.2)
        time.sleep(after)
        return Seen(load.finish())


def _measured(run: Callable[[], Seen]) -> Seen:
    """Return the result of ``run``; run again if this machine was so busy that one engine's queue overflowed.

    An overflow shows a slow machine, not a fault of the restart. Any other failure counts at once, and so
    does an overflow in each of three runs.
    """
    seen = run()
    for _ in range(2):
        if not seen.bad or not all(one.detail == "overloaded" for one in seen.bad):
            break
        print(f"\n{len(seen.bad)} of {seen.good + len(seen.bad)} refused for overload; measured again")
        time.sleep(5)
        seen = run()
    return seen


def _restart_under_load(stack: Stack, rate: float, tokens: int, names: Sequence[str] = ENGINES) -> Seen:
    seen = _measured(lambda: _restart_once(stack, rate, tokens, names))
    print(f"\n{seen.good} good, {len(seen.bad)} bad; by backend {dict(seen.backends)}")
    assert seen.bad == []
    assert set(seen.backends) == set(ENGINES), "each engine took over the other's requests"
    for name in names:
        assert started_on_a_cold_engine(stack, name, stack.states()[name]["pid"]) == []
    return seen


def _restart_once(stack: Stack, rate: float, tokens: int, names: Sequence[str]) -> Seen:
    before = {name: row["pid"] for name, row in stack.states().items()}
    restart = subprocess.Popen(
        stack.command("restart-engines", *(names if names != ENGINES else ())),
        env={**os.environ, **stack.environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seen = _load(stack, rate, tokens, lambda: restart.poll() is not None, after=3)
    said = restart.communicate(timeout=60)[0]
    assert restart.returncode == 0, said
    after = stack.states()
    for name in ENGINES:
        assert (after[name]["pid"] != before[name]) == (name in names), name
    for name in ("router", "edge"):
        assert after[name]["pid"] == before[name]
    return seen


def lines(stack: Stack, part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stack.run_dir / "logs" / f"{part}.jsonl").read_text().splitlines()]


def seconds_of(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def born_at(pid: int) -> float:
    """Return the epoch second of a process's start, to 10 ms. psutil's is up to a second early."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - since_boot + ticks / os.sysconf("SC_CLK_TCK")


def started_on_a_cold_engine(stack: Stack, name: str, pid: int) -> list[str]:
    """Return the requests that the router sent to an engine between its start and the end of its warm-up.

    Refused connections do not count: nothing can be sent until the engine listens.
    """
    born = born_at(pid)
    agent = lines(stack, name.replace("backend", "agent"))
    warm = [seconds_of(line["time"]) for line in agent if line["event"] == "engine is warm"]
    warm = [at for at in warm if at > born]
    assert warm, "it was warmed after its start"
    cold = []
    for record in lines(stack, "router"):
        reached = [a["outcome"] for a in record.get("attempts", ()) if a["backend"] == name]
        if not set(reached) - {"connect_failed"}:
            continue
        ledger = record["ttft_ledger_ms"] or {}
        waited = (ledger.get("router_queue") or 0) + (ledger.get("router") or 0)
        if born <= seconds_of(record["time"]) + waited / 1000 < warm[0]:
            cold.append(f"{record['time']} (born {born:.2f}, warm {warm[0]:.2f}): {record['attempts']}")
    return cold


@pytest.mark.service
@pytest.mark.timeout(600)
def test_simulated_engines_are_restarted_at_25_requests_a_second(sim_stack: Stack) -> None:
    seen = _restart_under_load(sim_stack, rate=25, tokens=16)
    assert seen.good > 100


@pytest.mark.service
@pytest.mark.timeout(600)
def test_one_of_two_simulated_engines_is_restarted_at_25_requests_a_second(sim_stack: Stack) -> None:
    _restart_under_load(sim_stack, rate=25, tokens=16, names=("backend-a",))


@pytest.mark.service
@pytest.mark.timeout(600)
def test_an_engine_that_is_merely_stopped_loses_nothing_either(sim_stack: Stack) -> None:
    """SIGTERM without a drain: in-flight requests finish, new ones are refused before their first byte and
    retried elsewhere.
    """
    seen = _measured(lambda: _stop_once(sim_stack))
    print(f"\n{seen.good} good, {len(seen.bad)} bad; by backend {dict(seen.backends)}")
    assert seen.bad == []
    assert started_on_a_cold_engine(sim_stack, "backend-a", sim_stack.states()["backend-a"]["pid"]) == []


def _stop_once(stack: Stack) -> Seen:
    """End backend-a after two seconds of load and return what clients saw until it was back."""
    old = stack.states()["backend-a"]["pid"]
    back, over = threading.Event(), threading.Event()

    def stop_and_watch() -> None:
        over.wait(2)
        os.kill(old, signal.SIGTERM)
        while not over.wait(0.5):
            rows = stack.states()
            if rows["backend-a"]["pid"] not in (0, old) and all(row["why"] is None for row in rows.values()):
                back.set()
                return

    watching = threading.Thread(target=stop_and_watch)
    watching.start()
    try:
        return _load(stack, 25, 16, back.is_set, after=3)
    finally:
        over.set()
        watching.join()


@pytest.mark.service
@pytest.mark.timeout(240)
def test_an_interrupted_restart_leaves_no_engine_drained(sim_stack: Stack) -> None:
    """Its requests do not end, so the drain waits, and Ctrl-C interrupts it."""
    engine, agent = sim_stack.url("ENGINE_A_PORT"), sim_stack.url("AGENT_A_PORT", "/readyz")
    body = {"model": MODEL, "prompt": "Hi", "max_tokens": 1900, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{engine}/v1/completions", json=body, timeout=60) as endless:
        assert endless.status_code == 200
        restart = subprocess.Popen(
            sim_stack.command("restart-engines", "backend-a"),
            env={**os.environ, **sim_stack.environment},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        eventually(lambda: httpx.get(agent).json()["state"] == "draining", "it drains")
        restart.send_signal(signal.SIGINT)
        said = restart.communicate(timeout=60)[0]
        assert restart.returncode == 130, said
    eventually(lambda: all(row["why"] is None for row in sim_stack.states().values()), "all is ready", 60)


@pytest.mark.service
@pytest.mark.timeout(240)
def test_engines_that_are_all_down_start_together(sim_stack: Stack) -> None:
    """No pool has a usable backend, so the router is not ready until the engines are."""
    supervisorctl = [sys.executable, "-m", "supervisor.supervisorctl"]
    address = f"unix://{sim_stack.run_dir / 'supervisor.sock'}"
    subprocess.run([*supervisorctl, "-s", address, "stop", *ENGINES], check=True, capture_output=True)
    assert {sim_stack.states()[name]["state"] for name in ENGINES} == {"STOPPED"}
    done = sim_stack.run("restart-engines")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "backend-a, backend-b: not running, so nothing to drain" in done.stdout
    assert "drained" not in done.stdout.replace("to drain", "")
    eventually(lambda: all(row["why"] is None for row in sim_stack.states().values()), "all is ready", 60)


@pytest.mark.service
@pytest.mark.timeout(240)
def test_one_engine_restarts_while_the_other_is_down(sim_stack: Stack) -> None:
    """One pool has no backend meanwhile, and the command does not wait for it."""
    supervisorctl = [sys.executable, "-m", "supervisor.supervisorctl"]
    address = f"unix://{sim_stack.run_dir / 'supervisor.sock'}"
    subprocess.run([*supervisorctl, "-s", address, "stop", "backend-a"], check=True, capture_output=True)
    done = sim_stack.run("restart-engines", "backend-b")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sim_stack.states()["backend-a"]["state"] == "STOPPED"
    assert sim_stack.run("restart-engines", "backend-a").returncode == 0
    eventually(lambda: all(row["why"] is None for row in sim_stack.states().values()), "all is ready", 60)


@pytest.mark.service
@pytest.mark.timeout(240)
def test_an_engine_that_does_not_exist_is_named(sim_stack: Stack) -> None:
    done = sim_stack.run("restart-engines", "backend-z")
    assert done.returncode == 1
    assert "backend-z: no such engine (known: backend-a, backend-b)" in done.stderr


@pytest.mark.platform
@pytest.mark.timeout(900)
def test_real_engines_are_restarted_under_constant_load(vllm_stack: Stack) -> None:
    seen = _restart_under_load(vllm_stack, rate=0.5, tokens=24)
    assert seen.good > 20


@pytest.mark.service
@pytest.mark.timeout(240)
def test_nothing_is_routed_to_an_engine_before_its_warm_up_is_over(tmp_path: Path) -> None:
    """Clients send requests from the start, while `make up` still waits for slowly warming engines."""
    stack = new_stack("sim", tmp_path / "run")
    statuses: Counter[int] = Counter()
    over = threading.Event()

    def ask() -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        while not over.wait(0.1):
            with contextlib.suppress(httpx.TransportError, OSError, KeyError):
                headers = {"authorization": f"Bearer {stack.client_environment()['OPENAI_API_KEY_LOAD']}"}
                answer = httpx.post(
                    f"{stack.edge}/v1/chat/completions", json=body, headers=headers, timeout=30
                )
                statuses[answer.status_code] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        up = stack.run("start-stack", SIMULATOR_ARGUMENTS="--step-seconds 0.3")
        assert up.returncode == 0, up.stdout + up.stderr
        eventually(lambda: statuses[200] > 0, "a warm engine answers")
        over.set()
        asking.join()
        rows = stack.states()
        cold = {name: started_on_a_cold_engine(stack, name, rows[name]["pid"]) for name in ENGINES}
    finally:
        over.set()
        asking.join()
        stack.down()
    print(f"\n{dict(statuses)}")
    assert set(statuses) == {200, 503}
    assert cold == {"backend-a": [], "backend-b": []}
