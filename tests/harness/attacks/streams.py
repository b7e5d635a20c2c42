"""Streams that their client leaves early, and floods of long streams."""

import asyncio
import re
import time
from typing import Any

import httpx

from harness.servers.edges import CHAT
from harness.stacks.attacked import ENGINE_SLOTS, Attacked

LEFT_AFTER = 25
WORDS = {"messages": [{"role": "user", "content": "Count to a thousand."}]}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {**WORDS, "max_tokens": 600},
    "/v1/completions": {"prompt": "Count to a thousand.", "max_tokens": 600},
    "/v1/messages": {**WORDS, "max_tokens": 600},
    "/v1/responses": {"input": "Count to a thousand.", "max_output_tokens": 600},
}
DELTA = re.compile(r'data: \{.*("delta":|"text":")')


def left_early(stack: Attacked, path: str, client: str = "metered") -> str:
    """Read the beginning of a stream, leave, and return the request's id."""
    body = {**BODIES[path], "model": "m", "stream": True, "ignore_eos": True}
    url, headers = stack.edge.url + path, stack.headers(client)
    with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200, answer.read()
        deltas = 0
        for line in answer.iter_lines():
            deltas += bool(DELTA.match(line))
            if deltas == LEFT_AFTER:
                break
        return str(answer.headers["x-request-id"])


CLIENTS = 3 * ENGINE_SLOTS


async def flood(stack: Attacked, seconds: float) -> dict[str, int]:
    """Keep 60 requests of 3 s each under way, three for every two slots; count how they end."""
    ends: dict[str, int] = {}
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 300,
        "ignore_eos": True,
        "stream": True,
    }
    until = time.monotonic() + seconds

    async def one(client: httpx.AsyncClient) -> None:
        while time.monotonic() < until:
            answer = await client.post(stack.edge.url + CHAT, json=body, headers=stack.headers("fast"))
            ends[str(answer.status_code)] = ends.get(str(answer.status_code), 0) + 1
            await asyncio.sleep(0.3 if answer.status_code == 503 else 0)

    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        await asyncio.gather(*(one(client) for _ in range(CLIENTS)))
    return ends
