"""Searches the other replicas of this router for a decision record. Must not be used on the path of a request."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import httpx
import orjson

from router_service.api.record_pages import PeerAnswer
from router_service.config.model import Peers
from router_service.discovery.dns import resolve
from router_service.ports import DiscoveryFailed

MOST_PEERS = 64

LOOKUPS_AT_ONCE = 8
"""Further lookups wait, within their time limit, so that a series of unknown ids does not multiply into load."""

LOOKUPS_OF_A_CLIENT = 2
"""Of these, so that one client's series of unknown ids does not make the lookups of others time out."""

MAX_RECORD_BYTES = 4 * 1024 * 1024


class PeerRouters:
    """Queries every configured replica once, all at the same time; ``section`` returns the configuration in use."""

    def __init__(self, section: Callable[[], Peers | None]) -> None:
        self._section = section
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._of_clients: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._http: httpx.AsyncClient | None = None

    async def find(self, request_id: str, client: str | None = None) -> PeerAnswer:
        """Return the first record that a replica sends, else the number of replicas that responded and those that
        did not. A lookup for a ``client`` first waits until the client has few enough of them.
        """
        section = self._section()
        if section is None:
            return PeerAnswer()
        async with AsyncExitStack() as turns:
            try:
                async with asyncio.timeout(section.timeout_seconds):
                    if client is not None:
                        await turns.enter_async_context(self._of_client(client))
                    await turns.enter_async_context(self._lookups)
            except TimeoutError:
                return PeerAnswer(silent=["the other replicas (too many lookups at once)"])
            return await self._ask_all(section, request_id)

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    def _of_client(self, client: str) -> asyncio.Semaphore:
        """Return the turns of a client, which exist as long as a lookup uses them."""
        turns = self._of_clients.get(client)
        if turns is None:
            turns = self._of_clients[client] = asyncio.Semaphore(LOOKUPS_OF_A_CLIENT)
        return turns

    async def _ask_all(self, section: Peers, request_id: str) -> PeerAnswer:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + section.timeout_seconds
        try:
            async with asyncio.timeout_at(deadline):
                urls = await _addresses(section)
        except (DiscoveryFailed, TimeoutError) as error:
            return PeerAnswer(silent=[f"{section.dns} ({_reason(error).removeprefix(f'{section.dns}: ')})"])
        asked = {asyncio.create_task(self._ask(url, request_id)): url for url in urls[:MOST_PEERS]}
        silent = [f"{url} (more than {MOST_PEERS} replicas)" for url in urls[MOST_PEERS:]]
        answered, waiting = 0, set(asked)
        try:
            while waiting and (left := deadline - loop.time()) > 0:
                done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    found = task.result()
                    if isinstance(found, dict):
                        return PeerAnswer(found, answered + 1, silent)
                    if found is None:
                        answered += 1
                    else:
                        silent.append(f"{asked[task]} ({found})")
        finally:
            for task in waiting:
                task.cancel()
        late = [f"{asked[task]} (no answer in {section.timeout_seconds:g} s)" for task in waiting]
        return PeerAnswer(None, answered, sorted([*silent, *late]))

    async def _ask(self, url: str, request_id: str) -> dict[str, Any] | str | None:
        """Return the record, None if the replica has none, or the reason why it did not respond."""
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=None, trust_env=False)
        target = f"{url.rstrip('/')}/debug/decisions/{quote(request_id, safe='')}?peers=false"
        body = bytearray()
        try:
            async with self._http.stream("GET", target) as response:
                if response.status_code == 404:
                    return None
                if response.status_code != 200:
                    return f"status {response.status_code}"
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_RECORD_BYTES:
                        return "its answer is too large"
            record = orjson.loads(body)
        except (httpx.HTTPError, OSError, orjson.JSONDecodeError) as error:
            return _reason(error)
        return record if isinstance(record, dict) else "its answer is not a record"


async def _addresses(section: Peers) -> list[str]:
    """Return the URLs of the replicas.

    Raises:
        DiscoveryFailed: the name cannot be resolved.
    """
    if section.dns is None:
        return section.urls
    found = await resolve(section.dns, section.port)
    return [
        f"http://[{one}]:{section.port}" if ":" in one else f"http://{one}:{section.port}" for one in found
    ]


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
