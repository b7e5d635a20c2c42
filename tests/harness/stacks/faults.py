"""Faults injected into a live local stack, each with a proof that it happened. Must not depend on tests;
asserts nothing.

Every fault is a context manager that always removes itself.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from harness.background import Background
from harness.servers.router_fleet import UNTIL_CLEARED
from harness.stacks.local import Stack

MODEL = "smollm2-135m-instruct"


def pid_of(stack: Stack, part: str) -> int:
    """Return the process id of a part (`edge`, `router`, `redis`, `backend-a`, ...)."""
    return int(stack.states()[part]["pid"])


def process_state(pid: int) -> str:
    """Return the kernel's letter for a process's state: R, S, T (stopped), Z; "" if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_stopped(pid: int) -> bool:
    """Return whether a signal has stopped a process. False for a process that is gone."""
    return process_state(pid) == "T"


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Freeze a process: its connections stay open and nothing responds."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class DutyCycle(Background):
    """Lets a process run only part of the time, like a used-up CPU quota or a busy event loop.

    It alternates between about ``freeze_seconds`` stopped and ``run_seconds`` running. Each length is
    multiplied by a random factor of 0.6 to 1.4, so that it is not in step with other periods.
    ``frozen_seconds`` and ``seen_stopped`` are the proof.
    """

    def __init__(self, pid: int, freeze_seconds: float, run_seconds: float, seed: int) -> None:
        super().__init__()
        self.pid = pid
        self.freeze_seconds = freeze_seconds
        self.run_seconds = run_seconds
        self.frozen_seconds = 0.0
        self.freezes = 0
        self.seen_stopped = 0
        self.began = 0.0
        self._random = random.Random(seed)

    @property
    def frozen_share(self) -> float:
        """Return the share of the time in which the process was stopped."""
        return self.frozen_seconds / max(time.monotonic() - self.began, 1e-9)

    def work(self) -> None:
        self.began = time.monotonic()
        try:
            while not self.stop.is_set():
                os.kill(self.pid, signal.SIGSTOP)
                began = time.monotonic()
                self.stop.wait(self.freeze_seconds * self._random.uniform(0.6, 1.4))
                self.seen_stopped += is_stopped(self.pid)
                os.kill(self.pid, signal.SIGCONT)
                self.frozen_seconds += time.monotonic() - began
                self.freezes += 1
                self.stop.wait(self.run_seconds * self._random.uniform(0.6, 1.4))
        except ProcessLookupError:
            return
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)


class SimulatedEngine:
    """One engine simulator of a stack: its faults, state and metrics."""

    def __init__(self, stack: Stack, letter: str) -> None:
        self.name = f"backend-{letter}"
        self.url = stack.url(f"ENGINE_{letter.upper()}_PORT")

    @contextlib.contextmanager
    def fault(self, kind: str, **more: Any) -> Iterator[None]:
        """Set one fault while the block runs."""
        httpx.post(
            f"{self.url}/sim/faults", json={"kind": kind, "seconds": UNTIL_CLEARED, **more}, timeout=10
        ).raise_for_status()
        try:
            yield
        finally:
            httpx.request("DELETE", f"{self.url}/sim/faults", timeout=10).raise_for_status()

    def state(self) -> dict[str, Any]:
        """Return the content of `/sim/state`."""
        found: dict[str, Any] = httpx.get(f"{self.url}/sim/state", timeout=10).json()
        return found

    def hits(self, kind: str) -> int:
        """Return how often a fault was applied to a request."""
        return int(self.state()["fault_hits"].get(kind, 0))

    def metric(self, name: str) -> float:
        """Return the sum of a metric's series, read from the engine itself."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0] == name)


class Neighbours(Background):
    """Load from other users of the engines, who bypass edge and router: ``streams`` concurrent streams on
    each engine.

    This loads an engine without changing the measured requests.
    """

    def __init__(self, urls: list[str], streams: int, max_tokens: int, prompt: str, **more: Any) -> None:
        super().__init__()
        self.finished = 0
        self.failed = 0
        self._urls = urls
        self._streams = streams
        self._body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            **more,
        }

    def work(self) -> None:
        asyncio.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        streams = [asyncio.create_task(self._one(url)) for url in self._urls for _ in range(self._streams)]
        await asyncio.to_thread(self.stop.wait)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def _one(self, url: str) -> None:
        address = urlsplit(url)
        body = json.dumps(self._body).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        while True:
            try:
                reader, writer = await asyncio.open_connection(address.hostname, address.port)
                try:
                    writer.write(head.encode() + body)
                    answer = await asyncio.wait_for(reader.read(), 60)
                finally:
                    writer.close()
            except (OSError, TimeoutError):
                self.failed += 1
                await asyncio.sleep(0.1)
                continue
            good = answer.startswith(b"HTTP/1.1 200")
            self.finished += good
            self.failed += not good
