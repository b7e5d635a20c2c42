"""One generation from request to last byte: stop sequences, chunks, faults, and a client that disconnects."""

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from engine_simulator.engine import Engine, Sequence
from engine_simulator.faults import Fault
from engine_simulator.language import Continuation
from engine_simulator.requests import Generation
from engine_simulator.wire import DONE, whole_answer, writer_of

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


ENGINE_DEATH = "EngineCore encountered an issue."


class Cut(Exception):
    """Cut the connection here, as a dying process does."""


class Output:
    """Collects an engine's tokens for one client; withholds text that may begin a stop sequence."""

    def __init__(self, generation: Generation, engine: Engine) -> None:
        self._stops = generation.stops
        self._engine = engine
        self._wake = asyncio.Event()
        self._held = ""
        self.pieces: list[tuple[str, list[int], str | None, str | None]] = []
        self.finished = False
        self.sequence = Sequence(
            prompt_ids=generation.prompt_ids,
            continuation=Continuation(generation.context),
            max_tokens=generation.max_tokens,
            min_tokens=generation.min_tokens,
            ignore_eos=generation.ignore_eos,
            emit=self._emit,
            thinking_tokens=generation.thinking_tokens,
        )

    def _emit(self, text: str, token: int, finish: str | None) -> None:
        stop = None
        if self._stops:
            text, finish, stop = self._cut_at_stop(text, finish)
        self.finished = finish is not None
        self.pieces.append((text, [token], finish, stop))
        self._wake.set()
        if stop is not None:
            self._engine.stop(self.sequence)

    def _cut_at_stop(self, text: str, finish: str | None) -> tuple[str, str | None, str | None]:
        text = self._held + text
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if found:
            at, stop = min(found)
            self._held = ""
            return text[:at], "stop", stop
        keep = 0
        if finish is None:
            for stop in self._stops:
                for length in range(min(len(stop) - 1, len(text)), 0, -1):
                    if text.endswith(stop[:length]):
                        keep = max(keep, length)
                        break
        self._held = text[len(text) - keep :] if keep else ""
        return text[: len(text) - keep], finish, None

    async def next(self) -> list[tuple[str, list[int], str | None, str | None]]:
        """Wait for output and return everything available."""
        while not self.pieces:
            self._wake.clear()
            await self._wake.wait()
        taken, self.pieces = self.pieces, []
        return taken


async def answer(
    generation: Generation,
    engine: Engine,
    fault: Fault | None,
    receive: Receive,
    send: Send,
    request_id: str,
    finished: Callable[[Sequence], None] = lambda sequence: None,
) -> None:
    """Run a generation and send its response; abort it if the client disconnects. ``finished`` is called at the
    end.
    """
    output = Output(generation, engine)
    headers = [(b"x-request-id", request_id.encode("latin-1", "replace"))] if request_id else []
    leaving = asyncio.ensure_future(left(receive))
    engine.submit(output.sequence)
    work = asyncio.ensure_future(
        (_stream if generation.stream else _whole)(generation, output, fault, headers, send)
    )
    try:
        await asyncio.wait({leaving, work}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        engine.abort(output.sequence)
        for task in (leaving, work):
            task.cancel()
        await asyncio.gather(leaving, work, return_exceptions=True)
        finished(output.sequence)


async def left(receive: Receive) -> None:
    """Return once the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stream(
    generation: Generation,
    output: Output,
    fault: Fault | None,
    headers: list[tuple[bytes, bytes]],
    send: Send,
) -> None:
    await _start(send, 200, b"text/event-stream; charset=utf-8", headers)
    if fault is not None and fault.kind == "stall_first_byte":
        await asyncio.sleep(fault.seconds)
    writer = writer_of(generation, output.sequence)
    chunks = 0
    first = True
    while True:
        for text, ids, finish, stop in await output.next():
            if fault is not None and chunks >= fault.after_chunks:
                if await fault_in_stream(fault, send, _death()):
                    return
                fault = None
            data = writer.text(text, ids, finish, stop)
            if first and generation.kind == "chat":
                data = writer.role() + data
            first = False
            if finish is not None:
                data += writer.end()
            await send({"type": "http.response.body", "body": data, "more_body": finish is None})
            chunks += 1
            if finish is not None:
                return


def _death() -> bytes:
    error = {"message": ENGINE_DEATH, "type": "InternalServerError", "param": None, "code": 500}
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n" + DONE


async def fault_in_stream(fault: Fault, send: Send, death: bytes) -> bool:
    """Inject a fault between two chunks; return True if the response ends with it.

    ``death`` is the event with which the API reports that the engine ends.

    Raises:
        Cut: the connection ends here.
    """
    if fault.kind == "die_mid_stream":
        raise Cut
    if fault.kind == "exit":
        os._exit(1)
    if fault.kind == "clean_truncation":
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True
    if fault.kind == "error_event":
        await send({"type": "http.response.body", "body": death, "more_body": False})
        return True
    if fault.kind == "stall_mid_stream":
        await asyncio.sleep(fault.seconds)
    if fault.kind == "comments_only":
        while True:
            await send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})
            await asyncio.sleep(0.2)
    return False


async def _whole(
    generation: Generation,
    output: Output,
    fault: Fault | None,
    headers: list[tuple[bytes, bytes]],
    send: Send,
) -> None:
    parts: list[str] = []
    token_ids: list[int] = []
    while True:
        for text, ids, finish, stop in await output.next():
            parts.append(text)
            token_ids += ids
            if finish is None:
                continue
            body = whole_answer(generation, output.sequence, "".join(parts), token_ids, finish, stop)
            await send_whole(200, body, fault, headers, send)
            return


async def send_whole(
    status: int, body: bytes, fault: Fault | None, headers: list[tuple[bytes, bytes]], send: Send
) -> None:
    """Send a JSON response in one piece, with ``fault`` applied to it.

    Raises:
        Cut: the connection ends after half of the body.
    """
    if fault is not None and fault.kind in ("stall_first_byte", "stall_mid_stream"):
        await asyncio.sleep(fault.seconds)
    if fault is not None and fault.kind == "exit":
        os._exit(1)
    await _start(send, status, b"application/json", [*headers, (b"content-length", b"%d" % len(body))])
    if fault is not None and fault.kind in ("die_mid_stream", "clean_truncation"):
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        raise Cut
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _start(send: Send, status: int, kind: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    await send(
        {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *headers]}
    )
