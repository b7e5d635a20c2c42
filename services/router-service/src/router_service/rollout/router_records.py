"""Reads the decision records of every router. A router that does not answer is reported and asked again later."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import orjson

from router_service.config import Configuration
from router_service.discovery.dns import resolve
from router_service.ports import DiscoveryFailed

MOST_RECORDS = 1000
"""Records of one router and one poll; of more, the newest are read."""

TIMEOUT_SECONDS = 5.0


class RouterRecords:
    """Reads each record once. ``silent`` names the routers that did not answer the last poll, with the reason."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False)
        self._read: dict[str, str] = {}
        """The newest record that was read of each router and rule."""
        self.silent: list[str] = []

    async def poll(self, values: Configuration, rules: Sequence[str]) -> list[dict[str, Any]]:
        """Return the records of ``rules`` since the last poll, of all routers, oldest first."""
        try:
            urls = await _routers(values)
        except DiscoveryFailed as error:
            self.silent = [str(error)]
            return []
        answers = await asyncio.gather(*(self._of(url, rule) for url in urls for rule in rules))
        self.silent = sorted({answer for answer in answers if isinstance(answer, str)})
        return [record for answer in answers if not isinstance(answer, str) for record in reversed(answer)]

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _of(self, url: str, rule: str) -> list[dict[str, Any]] | str:
        key = f"{url} {rule}"
        asked = {"rule": rule, "after": self._read.get(key, ""), "limit": str(MOST_RECORDS)}
        try:
            response = await self._http.get(f"{url.rstrip('/')}/debug/decisions", params=asked)
            response.raise_for_status()
            records: list[dict[str, Any]] = orjson.loads(response.content)["decisions"]
        except (httpx.HTTPError, OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            return f"{url}: {str(error) or type(error).__name__}"
        if records:
            self._read[key] = str(records[0].get("request_id"))
        return records


async def _routers(values: Configuration) -> list[str]:
    """Return the URLs of all routers: the configured `peers`, else the router on this machine.

    Raises:
        DiscoveryFailed: the peers' name cannot be resolved.
    """
    peers = values.peers
    if peers is None:
        return [f"http://127.0.0.1:{values.server.port}"]
    if peers.dns is None:
        return peers.urls
    found = await resolve(peers.dns, peers.port)
    return [f"http://[{one}]:{peers.port}" if ":" in one else f"http://{one}:{peers.port}" for one in found]
