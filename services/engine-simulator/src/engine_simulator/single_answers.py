"""The paths that return one JSON object; chat, completions, messages and responses have their own modules."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any

from engine_simulator.engine import Engine
from engine_simulator.event_streams import new_id
from engine_simulator.language import encode
from engine_simulator.messages_api import messages
from engine_simulator.requests import Refused, read_generation

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
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": scored,
    }


_PAIRS = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))


async def _score(body: dict[str, Any], engine: Engine) -> Answer:
    names = next((pair for pair in _PAIRS if all(name in body for name in pair)), None)
    if names is None:
        raise Refused(400, "queries, documents: Field required", "queries")
    queries, documents = ([body[n]] if isinstance(body[n], str) else body[n] for n in names)
    if not isinstance(queries, list) or not isinstance(documents, list) or not queries or not documents:
        raise Refused(400, f"{names[0]}, {names[1]}: a text or a list of texts", names[0])
    if len(queries) not in (1, len(documents)):
        raise Refused(400, "Input lengths must be either 1:1, 1:N or N:N", names[0])
    pairs = [(queries[0 if len(queries) == 1 else i], document) for i, document in enumerate(documents)]
    tokens = sum(len(encode(f"{query} {document}")) for query, document in pairs)
    data = [
        {"index": index, "object": "score", "score": _overlap(str(query), str(document))}
        for index, (query, document) in enumerate(pairs)
    ]
    return 200, _listed("embd-", body, data, tokens)


async def _classify(body: dict[str, Any], engine: Engine) -> Answer:
    texts = _texts(body)
    data = []
    for index, text in enumerate(texts):
        share = (_vector(text)[0] + 1.0) / 2.0
        label = "LABEL_1" if share > 0.5 else "LABEL_0"
        data.append({"index": index, "label": label, "probs": [1.0 - share, share], "num_classes": 2})
    return 200, _listed("classify-", body, data, sum(len(encode(text)) for text in texts))


async def _pooling(body: dict[str, Any], engine: Engine) -> Answer:
    texts = _texts(body)
    data = [{"index": i, "object": "pooling", "data": _vector(text)} for i, text in enumerate(texts)]
    return 200, _listed("pool-", body, data, sum(len(encode(text)) for text in texts))


async def _count_tokens(body: dict[str, Any], engine: Engine) -> Answer:
    """Count the tokens of the messages; as in vLLM, the system text is a message before them."""
    system = body.get("system")
    texts = (
        [system] if isinstance(system, str) else [block["text"] for block in system or () if "text" in block]
    )
    messages = [{"role": "system", "content": text} for text in texts] + list(body.get("messages") or ())
    if not body.get("messages"):
        raise Refused(400, "messages: Field required", "messages")
    counted = read_generation("chat", {"messages": messages, "max_tokens": 1}, "", 1 << 30)
    return 200, {"input_tokens": len(counted.prompt_ids)}


def _texts(body: dict[str, Any]) -> list[str]:
    value = body.get("input", body.get("messages"))
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise Refused(400, "input: Field required", "input")
    return [item if isinstance(item, str) else str(item) for item in items]


def _overlap(query: str, text: str) -> float:
    words = set(query.lower().split())
    return len(words & set(text.lower().split())) / max(len(words), 1)


def _listed(prefix: str, body: dict[str, Any], data: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return {"id": new_id(prefix), "object": "list", "model": body.get("model"), "data": data, "usage": usage}


SINGLE_ANSWERS: dict[str, Callable[[dict[str, Any], Engine], Awaitable[Answer]]] = {
    "/v1/embeddings": _embeddings,
    "/v1/rerank": _rerank,
    "/rerank": _rerank,
    "/v2/rerank": _rerank,
    "/v1/score": _score,
    "/score": _score,
    "/classify": _classify,
    "/pooling": _pooling,
    "/v1/messages/count_tokens": _count_tokens,
    "/v1/messages": messages,
}
