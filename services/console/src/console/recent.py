"""The latest decision records of the routers, kept in the console and read incrementally.

Bounded in records and bytes, so that the console's memory does not grow with the routers' traffic.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

MOST_RECORDS = 2000
MOST_BYTES = 8 * 1024 * 1024
"""Limits of all routers together."""

READ_AT_ONCE = 250
"""Records in one response; parsed records need several times the memory of their text."""

Get = Callable[[str, Mapping[str, str]], Awaitable[tuple[Any, str]]]
"""GET a URL with parameters: the document, or None and why there is none."""


@dataclass(slots=True)
class _Kept:
    """The records of one router as JSON, the oldest first, and their bytes."""

    texts: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    size: int = 0

    def add(self, found: list[tuple[str, bytes]], most: int, most_bytes: int) -> None:
        """Store records, of which the newest is the first, and drop the oldest beyond the limits."""
        for request_id, text in reversed(found):
            self.size += len(text) - len(self.texts.pop(request_id, b""))
            self.texts[request_id] = text
        while len(self.texts) > most or self.size > most_bytes:
            self.size -= len(self.texts.popitem(last=False)[1])


class Recent:
    """The records of every router by URL."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    async def read(self, urls: list[str], get: Get) -> dict[str, str]:
        """Read what is new at each of ``urls`` concurrently; return why a router was not read. Forget other URLs."""
        self._kept = {url: self._kept.get(url) or _Kept() for url in urls}
        problems = await asyncio.gather(*(self._update(url, get) for url in urls))
        return {url: problem for url, problem in zip(urls, problems, strict=True) if problem}

    def newest(self, limit: int) -> Iterator[dict[str, Any]]:
        """Yield at most ``limit`` records of each router, the newest of a router first."""
        for kept in self._kept.values():
            for text in islice(reversed(kept.texts.values()), limit):
                yield orjson.loads(text)

    async def _update(self, url: str, get: Get) -> str:
        """Read the records since the last reading, the newest first, until they are complete or a limit is met."""
        kept, share = self._kept[url], max(1, len(self._kept))
        most, most_bytes = MOST_RECORDS // share, MOST_BYTES // share
        parameters = {"limit": str(READ_AT_ONCE), "after": next(reversed(kept.texts), "")}
        found: list[tuple[str, bytes]] = []
        while len(found) < most and sum(len(text) for _, text in found) < most_bytes:
            answer, problem = await get(f"{url}/debug/decisions", parameters)
            if problem:
                return problem
            page = [(str(record["request_id"]), orjson.dumps(record)) for record in answer["decisions"]]
            found += page
            if len(page) < READ_AT_ONCE:
                break
            parameters["before"] = page[-1][0]
        kept.add(found, most, most_bytes)
        return ""
