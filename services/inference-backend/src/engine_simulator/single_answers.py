"""The paths that answer with one JSON, besides chat and completions. Here are embeddings and rerank."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any

from engine_simulator.engine import Engine
from engine_simulator.event_streams import new_id
from engine_simulator.language import encode
from engine_simulator.messages_api import messages
from engine_simulator.requests import Refused
from engine_simulator.responses_api import responses

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
        "id": new_id("embd-"),
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
        "id": new_id("rerank-"),
        "model": body.get("model"),
        "usage": {"total_tokens": tokens},
        "results": scored,
    }


SINGLE_ANSWERS: dict[str, Callable[[dict[str, Any], Engine], Awaitable[Answer]]] = {
    "/v1/embeddings": _embeddings,
    "/v1/rerank": _rerank,
    "/v1/responses": responses,
    "/v1/messages": messages,
}
