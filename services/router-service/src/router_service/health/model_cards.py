"""Model cards from engines (`GET /v1/models`), read from one engine per pool. Must not know requests.

Must not be on a request's path: cards are read in the background and may be missing.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import orjson

INTERVAL_SECONDS = 60.0
FIRST_SECONDS = 1.0
"""Interval while a pool with a usable backend has no card."""

FIELDS = {"max_model_len": int, "created": int, "owned_by": str}
"""Card fields that clients receive. `root` is left out because it is a path on the engine's disk."""


class ModelCards:
    """Stores the cards of each pool. ``backends`` returns pool and URL of every usable backend."""

    def __init__(self, backends: Callable[[], Iterable[tuple[str, str]]], timeout_seconds: float) -> None:
        self._backends = backends
        self._timeout_seconds = timeout_seconds
        self._cards: dict[str, dict[str, dict[str, Any]]] = {}

    def card(self, pool: str, model: str) -> dict[str, Any]:
        """Return the known fields of a model that a pool's engines serve under this name."""
        return self._cards.get(pool, {}).get(model, {})

    async def run(self) -> None:
        """Read the cards periodically until cancelled."""
        async with httpx.AsyncClient(timeout=self._timeout_seconds, trust_env=False) as client:
            while True:
                asked = set()
                for pool, url in self._backends():
                    if pool not in asked and (found := await _read(client, url)) is not None:
                        asked.add(pool)
                        self._cards[pool] = found
                await asyncio.sleep(INTERVAL_SECONDS if asked else FIRST_SECONDS)


async def _read(client: httpx.AsyncClient, url: str) -> dict[str, dict[str, Any]] | None:
    try:
        response = await client.get(f"{url.rstrip('/')}/v1/models")
        document = orjson.loads(response.content)
    except (httpx.HTTPError, OSError, orjson.JSONDecodeError):
        return None
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list):
        return None
    return {
        card["id"]: {name: card[name] for name, kind in FIELDS.items() if type(card.get(name)) is kind}
        for card in data
        if isinstance(card, dict) and isinstance(card.get("id"), str)
    }
