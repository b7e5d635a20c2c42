"""Named server-sent events of the Responses and Messages APIs: runs a generation and frames its events."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from engine_simulator.engine import Engine
from engine_simulator.faults import Fault
from engine_simulator.generating import ENGINE_DEATH, Output, Receive, Send, fault_in_stream, left
from engine_simulator.requests import Generation, Refused, answer_after, read_generation
from engine_simulator.wire import DONE

Event = dict[str, Any]


class Events(Protocol):
    """The events of one stream; each has a ``type``."""

    begins_at_once: bool
    """Whether the first events are sent before the engine has produced a token, as vLLM does for Responses."""

    def first(self, output: Output) -> Sequence[Event]:
        """Return the events before any text."""

    def text(self, text: str) -> Sequence[Event]:
        """Return the events of a piece of text."""

    def last(self, text: str, output: Output) -> Sequence[Event]:
        """Return the events after the whole ``text``."""

    def error(self, message: str) -> Sequence[Event]:
        """Return the events that report the engine's failure."""


def generation_of(body: dict[str, Any], key: str, limit: str, engine: Engine) -> Generation:
    """Read a request with its prompt under ``key`` and its token limit under ``limit``.

    Raises:
        Refused: with vLLM's status and message.
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
    generation: Generation,
    engine: Engine,
    fault: Fault | None,
    receive: Receive,
    send: Send,
    events: Events,
) -> None:
    """Run a generation and send its events; abort it if the client disconnects.

    Raises:
        Cut: ``fault`` cuts the connection here.
    """
    output = Output(generation, engine)
    engine.submit(output.sequence)
    writing = asyncio.ensure_future(_write(output, fault, send, events))
    leaving = asyncio.ensure_future(left(receive))
    try:
        await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            writing.result()
    finally:
        engine.abort(output.sequence)
        for task in (writing, leaving):
            task.cancel()
        await asyncio.gather(writing, leaving, return_exceptions=True)


async def _write(output: Output, fault: Fault | None, send: Send, events: Events) -> None:
    kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    if events.begins_at_once:
        await send({"type": "http.response.body", "body": _framed(events.first(output)), "more_body": True})
    if fault is not None and fault.kind == "stall_first_byte":
        await asyncio.sleep(fault.seconds)
    parts: list[str] = []
    while True:
        for text, _, reason, _ in await output.next():
            if fault is not None and len(parts) >= fault.after_chunks:
                death = _framed(events.error(ENGINE_DEATH)) + DONE
                if await fault_in_stream(fault, send, death):
                    return
                fault = None
            data = _framed(events.text(text))
            if not parts and not events.begins_at_once:
                data = _framed(events.first(output)) + data
            parts.append(text)
            if reason is not None:
                data += _framed(events.last("".join(parts), output))
            await send({"type": "http.response.body", "body": data, "more_body": reason is None})
            if reason is not None:
                return


def _framed(events: Sequence[Event]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (str(e["type"]).encode(), orjson.dumps(e)) for e in events)


def new_id(prefix: str) -> str:
    """Return a new id in vLLM's form."""
    return prefix + uuid.uuid4().hex[:16]
