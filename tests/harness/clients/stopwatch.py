"""Paced streaming requests, timed by the client independently of the platform."""

import asyncio
import contextlib
import itertools
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.background import Background

_ANSWER = re.compile(rb'"content":\s?"[^"]')
"""Text of an answer in a chunk, not a thought."""


@dataclass(slots=True)
class Ask:
    """One request to send, with ``more`` fields of its body.

    ``upload_seconds`` is the pause between the two halves of the body.
    """

    content: str
    headers: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int = 8
    upload_seconds: float = 0.0
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Timing:
    """One request as observed by its client. Times are epoch seconds; ``first_token_seconds`` is None without a token."""

    sent_at: float
    ended_at: float = 0.0
    first_token_seconds: float | None = None
    first_answer_seconds: float | None = None
    status: int = 0
    complete: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def backend(self) -> str:
        return self.headers.get("x-route-backend", "")

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")


class Stopwatch(Background):
    """Sends ``per_second`` requests a second, evenly spaced with jitter, until the block ends.

    ``next_ask`` makes each request; it may be replaced while this runs.
    """

    def __init__(
        self, port: int, key: str, model: str, per_second: float, next_ask: Callable[[], Ask], seed: int
    ) -> None:
        super().__init__()
        self.next_ask = next_ask
        self.paused = False
        self.timings: list[Timing] = []
        self._port = port
        self._key = key
        self._model = model
        self.per_second = per_second
        self._random = random.Random(seed)

    def work(self) -> None:
        asyncio.run(self._run())

    def ended_between(self, start: float, end: float) -> list[Timing]:
        """Return the requests that ended between two epoch times."""
        return [one for one in self.timings if start < one.ended_at <= end]

    async def _run(self) -> None:
        running: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not self.stop.is_set():
            if not self.paused:
                task = asyncio.create_task(self._one(self.next_ask()))
                running.add(task)
                task.add_done_callback(running.discard)
            due = max(due + self._random.uniform(0.5, 1.5) / self.per_second, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        if running:
            await asyncio.wait(running, timeout=30)
        for task in running:
            task.cancel()

    async def _one(self, ask: Ask) -> None:
        timing = Timing(time.time())
        try:
            await self._exchange(ask, timing)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            timing.ended_at = time.time()
            self.timings.append(timing)

    async def _exchange(self, ask: Ask, timing: Timing) -> None:
        document = {
            "model": self._model,
            "messages": [{"role": "user", "content": ask.content}],
            "max_tokens": ask.max_tokens,
            "stream": True,
            "ignore_eos": True,
            "temperature": 0,
            **ask.more,
        }
        body = json.dumps(document).encode()
        lines = {
            "host": "a",
            "authorization": f"Bearer {self._key}",
            "content-type": "application/json",
            "connection": "close",
            "content-length": str(len(body)),
            **ask.headers,
        }
        head = "POST /v1/chat/completions HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            timing.sent_at = time.time()
            began = time.perf_counter()
            half = len(body) // 2
            writer.write(head.encode() + b"\r\n" + body[:half])
            if ask.upload_seconds:
                await writer.drain()
                await asyncio.sleep(ask.upload_seconds)
            writer.write(body[half:])
            status = await reader.readline()
            timing.status = int(status.split(b" ")[1])
            while (line := await reader.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                timing.headers[name.lower()] = value.strip()
            while line := await reader.readline():
                if line.startswith(b"data: {") and timing.first_token_seconds is None:
                    timing.first_token_seconds = time.perf_counter() - began
                if timing.first_answer_seconds is None and _ANSWER.search(line):
                    timing.first_answer_seconds = time.perf_counter() - began
                timing.complete = timing.complete or line.startswith(b"data: [DONE]")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def mean_first_token(timings: Sequence[Timing]) -> float:
    """Return the mean time to first token in seconds, over the requests that got one.

    Raises:
        AssertionError: none did.
    """
    seconds = [one.first_token_seconds for one in timings if one.first_token_seconds is not None]
    assert seconds, f"no first token among {len(timings)} requests"
    return statistics.fmean(seconds)


def varied_prompts(words: int, seed: int) -> Callable[[], str]:
    """Return a function that makes unique prompts of about that many simulator tokens."""
    from engine_simulator.language import WORDS

    draw = random.Random(seed)
    numbers = itertools.count()

    def make() -> str:
        return f"{next(numbers)} " + " ".join(draw.choices(WORDS, k=words))

    return make
