"""The paths beside chat and completions: embeddings, rerank, responses, messages. Plain shapes, same engine."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any

import orjson

from engine_simulator.engine import Engine
from engine_simulator.generating import Output, Receive, Send
from engine_simulator.language import encode
from engine_simulator.requests import Generation, Refused, answer_after, read_generation

EMBEDDING_SIZE = 32

Answer = tuple[int, dict[str, Any]]


async def _embeddings(body: dict[str, Any], engine: Engine) -> Answer:
    texts = body.get("input")
    items = [texts] if isinstance(texts, str) else texts
    if not isinstance(items, list) or not items:
        raise Refused(400, "input: Field required", "input")
    tokens = [len(encode(t)) if isinstance(t, str) else 1 for t in items]
    await asyncio.sleep(sum(tokens) * engine.timing.prefill_seconds_per_token)
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(str(item))}
        for index, item in enumerate(items)
    ]
    usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens), "completion_tokens": 0}
    return 200, {
        "id": _id("embd"),
        "object": "list",
        "model": body.get("model"),
        "data": data,
        "usage": usage,
    }


def _vector(text: str) -> list[float]:
    raw = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=EMBEDDING_SIZE).digest()
    return [byte / 127.5 - 1.0 for byte in raw]


async def _rerank(body: dict[str, Any], engine: Engine) -> Answer:
    documents = body.get("documents")
    if not isinstance(documents, list) or not documents:
        raise Refused(400, "documents: Field required", "documents")
    query = set(str(body.get("query", "")).lower().split())
    scored = [
        {
            "index": index,
            "document": {"text": str(text)},
            "relevance_score": len(query & set(str(text).lower().split())) / max(len(query), 1),
        }
        for index, text in enumerate(documents)
    ]
    scored.sort(key=lambda s: -float(str(s["relevance_score"])))
    tokens = sum(len(encode(str(d))) for d in documents)
    return 200, {
        "id": _id("rerank"),
        "model": body.get("model"),
        "usage": {"total_tokens": tokens},
        "results": scored,
    }


async def _responses(body: dict[str, Any], engine: Engine) -> Answer:
    output = await _finish(_generation_of(body, "input", "max_output_tokens", engine), engine)
    return 200, _response(body, *output)


async def _messages(body: dict[str, Any], engine: Engine) -> Answer:
    text, output = await _finish(_generation_of(body, "messages", "max_tokens", engine), engine)
    sequence = output.sequence
    return 200, {
        "id": _id("msg"),
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [{"type": "text", "text": text}],
        "stop_reason": "max_tokens" if sequence.finished == "length" else "end_turn",
        "usage": {"input_tokens": len(sequence.prompt_ids), "output_tokens": sequence.generated},
    }


def _generation_of(body: dict[str, Any], key: str, limit: str, engine: Engine) -> Generation:
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


async def _finish(generation: Generation, engine: Engine) -> tuple[str, Output]:
    output = Output(generation, engine)
    engine.submit(output.sequence)
    parts = []
    try:
        while True:
            for text, _, finish, _ in await output.next():
                parts.append(text)
                if finish is not None:
                    return "".join(parts), output
    finally:
        engine.abort(output.sequence)


def _response(body: dict[str, Any], text: str, output: Output) -> dict[str, Any]:
    sequence = output.sequence
    prompt, generated = len(sequence.prompt_ids), sequence.generated
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {
        "id": _id("resp"),
        "object": "response",
        "model": body.get("model"),
        "status": "incomplete" if sequence.finished == "length" else "completed",
        "output": [{"type": "message", "id": _id("msg"), "role": "assistant", "content": content}],
        "usage": {"input_tokens": prompt, "output_tokens": generated, "total_tokens": prompt + generated},
    }


async def responses_events(body: dict[str, Any], engine: Engine, receive: Receive, send: Send) -> None:
    """The event stream of /v1/responses, from `response.created` to its terminal event."""
    generation = _generation_of(body, "input", "max_output_tokens", engine)

    def delta(text: str) -> dict[str, Any]:
        return {"type": "response.output_text.delta", "delta": text}

    def end(text: str, output: Output) -> dict[str, Any]:
        response = _response(body, text, output)
        return {"type": f"response.{response['status']}", "response": response}

    created = {"type": "response.created", "response": {"id": _id("resp"), "status": "in_progress"}}
    await _events(generation, engine, receive, send, created, delta, end)


async def messages_events(body: dict[str, Any], engine: Engine, receive: Receive, send: Send) -> None:
    """The event stream of /v1/messages, from `message_start` to `message_stop`."""
    generation = _generation_of(body, "messages", "max_tokens", engine)

    def delta(text: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}

    def end(text: str, output: Output) -> dict[str, Any]:
        used = {"input_tokens": len(output.sequence.prompt_ids), "output_tokens": output.sequence.generated}
        return {"type": "message_stop", "usage": used}

    start = {"type": "message_start", "message": {"id": _id("msg"), "role": "assistant", "content": []}}
    await _events(generation, engine, receive, send, start, delta, end)


async def _events(
    generation: Generation,
    engine: Engine,
    receive: Receive,
    send: Send,
    first: dict[str, Any],
    delta: Callable[[str], dict[str, Any]],
    end: Callable[[str, Output], dict[str, Any]],
) -> None:
    output = Output(generation, engine)
    engine.submit(output.sequence)
    kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    parts: list[str] = []

    async def write() -> None:
        await send({"type": "http.response.body", "body": _event(first), "more_body": True})
        while True:
            for text, _, finish, _ in await output.next():
                parts.append(text)
                data = _event(delta(text))
                if finish is not None:
                    data += _event(end("".join(parts), output))
                await send({"type": "http.response.body", "body": data, "more_body": finish is None})
                if finish is not None:
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


def _event(data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(data["type"]).encode(), orjson.dumps(data))


def _id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


SINGLE_ANSWERS: dict[str, Callable[[dict[str, Any], Engine], Awaitable[Answer]]] = {
    "/v1/embeddings": _embeddings,
    "/v1/rerank": _rerank,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
}
