"""Named server-sent events of the APIs beside OpenAI's completions: runs a generation and frames its events."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from engine_simulator.engine import Engine
from engine_simulator.generating import Output, Receive, Send
from engine_simulator.requests import Generation, Refused, answer_after, read_generation

Event = dict[str, Any]


class Events(Protocol):
    """The events of one stream; each has a ``type``."""

    def first(self, output: Output) -> Sequence[Event]:
        """Before any text."""

    def text(self, text: str) -> Sequence[Event]:
        """For a piece of text."""

    def last(self, text: str, output: Output) -> Sequence[Event]:
        """After the whole ``text``."""


def generation_of(body: dict[str, Any], key: str, limit: str, engine: Engine) -> Generation:
    """Read a request whose prompt is under ``key`` and whose bound is under ``limit``.

    Raises:
        Refused: with the status and words of vLLM.
    """
    value = body.get(key)
    if not value:
        raise Refused(400, f"{key}: Field required", key)
    more: dict[str, Any] = {
        name: body[name] for name in ("model", "ignore_eos", "min_tokens") if name in body
    }
    most = engine.capacity.max_model_len
    asked = body.get(limit) or 64
    if isinstance(value, str):
        return read_generation("text", {"prompt": answer_after(value), "max_tokens": asked, **more}, "", most)
    return read_generation("chat", {"messages": value, "max_tokens": asked, **more}, "", most)


async def finish(generation: Generation, engine: Engine) -> tuple[str, Output]:
    """Run a generation to its end and return its text."""
    output = Output(generation, engine)
    engine.submit(output.sequence)
    parts = []
    try:
        while True:
            for text, _, reason, _ in await output.next():
                parts.append(text)
                if reason is not None:
                    return "".join(parts), output
    finally:
        engine.abort(output.sequence)


async def stream(
    generation: Generation, engine: Engine, receive: Receive, send: Send, events: Events
) -> None:
    """Run a generation and send its events; a client that leaves aborts it."""
    output = Output(generation, engine)
    engine.submit(output.sequence)
    kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    parts: list[str] = []

    async def write() -> None:
        await send({"type": "http.response.body", "body": _framed(events.first(output)), "more_body": True})
        while True:
            for text, _, reason, _ in await output.next():
                parts.append(text)
                data = _framed(events.text(text))
                if reason is not None:
                    data += _framed(events.last("".join(parts), output))
                await send({"type": "http.response.body", "body": data, "more_body": reason is None})
                if reason is not None:
                    return

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(write()), asyncio.ensure_future(left())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        engine.abort(output.sequence)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _framed(events: Sequence[Event]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (str(e["type"]).encode(), orjson.dumps(e)) for e in events)


def new_id(prefix: str) -> str:
    """A fresh id such as vLLM gives."""
    return prefix + uuid.uuid4().hex[:16]
