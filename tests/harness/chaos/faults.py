"""Faults of the local stack as context managers: entering causes and proves the fault, leaving heals it.

Each yields a :class:`Proof`. The proof never comes from the platform itself, but from the kernel, the peer's
counters or a client of the test.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import redis

from harness.chaos.load import Answer
from harness.chaos.world import World, eventually
from harness.stacks.faults import process_state
from harness.stacks.local import ROOT

Fault = Callable[[World], "contextlib.AbstractContextManager[Proof]"]


@dataclass
class Proof:
    """How it was verified that the fault happened. ``answers`` are the results of the fault's own load."""

    text: str = ""
    answers: list[Answer] = field(default_factory=list)


def killed_again_and_again(part: str) -> Fault:
    """SIGKILL, and again after every restart by the supervisor: the process does not come back."""

    @contextlib.contextmanager
    def fault(world: World) -> Iterator[Proof]:
        killed: list[int] = []
        over = threading.Event()

        def keep_killing() -> None:
            while not over.is_set():
                pid = world.pid(part)
                if pid and pid not in killed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                over.wait(0.1)

        thread = threading.Thread(target=keep_killing)
        thread.start()
        proof = Proof()
        try:
            eventually(lambda: killed and process_state(killed[0]) in ("", "Z"), "the process is gone")
            yield proof
        finally:
            over.set()
            thread.join()
        # The last kill may be recent, and the kernel needs time to end a process with many threads.
        eventually(lambda: all(process_state(pid) in ("", "Z") for pid in killed), "the last one is gone")
        proof.text = f"the kernel has no such process: {len(killed)} killed one after another"

    return fault


def killed_once(part: str) -> Fault:
    """One SIGKILL; the supervisor restarts the process."""

    @contextlib.contextmanager
    def fault(world: World) -> Iterator[Proof]:
        pid = world.pid(part)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: process_state(pid) in ("", "Z"), "the process is gone")
        yield Proof(f"the kernel has no process {part} of before")
        assert world.pid(part) != pid

    return fault


def frozen(part: str, probe: Callable[[World], None] | None = None) -> Fault:
    """SIGSTOP: its connections stay open and nothing responds. ``probe`` must raise while it is frozen."""

    @contextlib.contextmanager
    def fault(world: World) -> Iterator[Proof]:
        pid = world.pid(part)
        os.kill(pid, signal.SIGSTOP)
        try:
            eventually(lambda: process_state(pid) == "T", "the kernel reports it as stopped")
            if probe is not None:
                with pytest.raises((httpx.TimeoutException, redis.TimeoutError)):
                    probe(world)
            yield Proof("the kernel says T (stopped); a connection is accepted and not answered")
            assert process_state(pid) == "T", "it stayed frozen until the end"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    return fault


def ask_engine_a(world: World) -> None:
    httpx.get(world.stack.url("ENGINE_A_PORT", "/health"), timeout=1)


def ask_redis(world: World) -> None:
    redis.Redis(port=int(world.stack.environment["REDIS_PORT"]), socket_timeout=1).ping()


def wedged(letter: str) -> Fault:
    """The engine accepts requests, answers /health, and generates no token."""

    @contextlib.contextmanager
    def fault(world: World) -> Iterator[Proof]:
        world.simulator(letter, "faults", kind="wedge")
        try:
            before = world.simulator(letter, "state")["generation_tokens"]
            yield (proof := Proof())
            after = world.simulator(letter, "state")
            health = httpx.get(world.stack.url(f"ENGINE_{letter.upper()}_PORT", "/health"), timeout=5)
            # tokens of a step that was running when the fault was set
            assert after["generation_tokens"] - before <= 100, "it generates no token"
            assert health.status_code == 200
            proof.text = "the engine's token counter does not grow, its /health returns 200"
        finally:
            world.heal_engine(letter)

    return fault


def slowed(letter: str, kind: str, factor: float) -> Fault:
    """Every step takes ``factor`` times as long; ``throttled`` also lowers the reported clocks, ``slow`` does not."""

    @contextlib.contextmanager
    def fault(world: World) -> Iterator[Proof]:
        normal = _seconds_alone(world, letter)
        world.simulator(letter, "faults", kind=kind, factor=factor)
        try:
            slow = _seconds_alone(world, letter)
            assert slow > 2 * normal, f"{slow:.2f} s instead of {normal:.2f} s"
            yield Proof(f"a direct request takes {slow / normal:.0f} times as long as before")
        finally:
            world.heal_engine(letter)

    return fault


def _seconds_alone(world: World, letter: str) -> float:
    url = world.stack.url(f"ENGINE_{letter.upper()}_PORT", "/v1/completions")
    began = time.monotonic()
    body = {"model": "smollm2-135m-instruct", "prompt": "Once", "max_tokens": 8, "ignore_eos": True}
    httpx.post(url, json=body, timeout=60).raise_for_status()
    return time.monotonic() - began


@contextlib.contextmanager
def redis_full(world: World) -> Iterator[Proof]:
    """Redis answers reads and rejects every write."""
    client = redis.Redis(port=int(world.stack.environment["REDIS_PORT"]), socket_timeout=5)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            client.set("chaos", "x")
        assert client.ping()
        yield Proof("a write by the test fails with OOM, PING is answered")
    finally:
        client.config_set("maxmemory", "64mb")
        client.config_set("maxmemory-policy", "volatile-lru")


@contextlib.contextmanager
def configuration_with_errors(world: World) -> Iterator[Proof]:
    """Replace the router's file ten times a second by one that names an unknown pool."""
    path = world.stack.run_dir / "router" / "router.yaml"
    good = path.read_text()
    bad = good.replace("default_pool: general", "default_pool: generl")
    assert bad != good
    over = threading.Event()

    def keep_writing() -> None:
        while not over.wait(0.1):
            _replace(path, bad)

    _replace(path, bad)
    check = subprocess.run(
        [ROOT / ".venv" / "bin" / "router-service", "check", "--config", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 2, check.stdout + check.stderr
    assert "generl" in check.stdout + check.stderr
    thread = threading.Thread(target=keep_writing)
    thread.start()
    try:
        yield Proof("router-service check on the same file: exit 2, and names the line")
    finally:
        over.set()
        thread.join()
        _replace(path, good)


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
