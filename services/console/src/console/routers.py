"""Reads the debug pages of the routers: bounded in number, time and bytes. Sends only GET requests and dry
runs.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from console.recent import Recent

MOST_ROUTERS = 32
MAX_ANSWER_BYTES = 8 * 1024 * 1024
SHARED_SECONDS = 1.0
"""Time for which all pages share one reading of an address, so that many open pages cost a router as much as one."""


@dataclass(slots=True)
class FromAll:
    """The responses of all routers by URL, and the reason for each router without one."""

    answers: dict[str, Any] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    read_at: float = field(default_factory=time.time)
    """When the reading began, in epoch seconds."""


class Routers:
    """The routers at ``urls``, and those behind the name ``dns`` (``NAME:PORT``, resolved at each reading)."""

    def __init__(self, urls: Sequence[str], dns: str = "", timeout_seconds: float = 2.0) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._dns = dns
        self._http = httpx.AsyncClient(timeout=timeout_seconds, trust_env=False)
        self._timeout_seconds = timeout_seconds
        self._recent = Recent()
        self._readings: dict[str, tuple[float, asyncio.Future[FromAll]]] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def read(self, path: str, parameters: Mapping[str, str] | None = None) -> FromAll:
        """GET ``path`` from every router concurrently, or return the reading of the last second."""
        key = f"{path}?{urlencode(parameters or {})}"
        return await self._shared(key, lambda: self._read(path, parameters))

    async def read_recent(self) -> FromAll:
        """Read the routers' new decision records, unless that was done within the last second; see :meth:`recent`."""
        return await self._shared("/debug/decisions", self._read_recent)

    def recent(self, limit: int) -> Iterator[dict[str, Any]]:
        """Yield at most ``limit`` of the latest decision records of each router that were read."""
        return self._recent.newest(limit)

    async def _shared(self, key: str, read: Callable[[], Awaitable[FromAll]]) -> FromAll:
        """Return the running or latest reading; start one if the latest is older than :data:`SHARED_SECONDS`."""
        now = time.monotonic()
        for old, (started, reading) in list(self._readings.items()):
            if reading.done() and now - started >= SHARED_SECONDS:
                del self._readings[old]
        if key not in self._readings:
            self._readings[key] = (now, asyncio.ensure_future(read()))
        return await asyncio.shield(self._readings[key][1])

    async def _read(self, path: str, parameters: Mapping[str, str] | None = None) -> FromAll:
        found = FromAll()
        urls = await self._reachable(found)
        results = await asyncio.gather(*(self._get(url + path, parameters) for url in urls))
        for url, (answer, problem) in zip(urls, results, strict=True):
            if problem:
                found.silent[url] = problem
            else:
                found.answers[url] = answer
        return found

    async def _read_recent(self) -> FromAll:
        found = FromAll()
        urls = await self._reachable(found)
        if urls:
            found.silent |= await self._recent.read(urls, self._get)
        return found

    async def _reachable(self, found: FromAll) -> list[str]:
        """Return the routers' URLs; an unknown name is silent in ``found``."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._addresses()
        except (OSError, TimeoutError) as error:
            found.silent[self._dns] = str(error) or type(error).__name__
            return []

    async def record(self, request_id: str) -> tuple[dict[str, Any] | None, str]:
        """Return a request's record, or None and why there is none. The first router queries its peers."""
        found = await self._read(f"/debug/decisions/{quote(request_id, safe='')}")
        for answer in found.answers.values():
            if isinstance(answer, dict) and "request_id" in answer:
                return answer, ""
        reasons = "; ".join(f"{url}: {problem}" for url, problem in found.silent.items())
        return None, reasons or "no router is configured"

    async def decide(self, body: Mapping[str, Any], path: str, client_id: str) -> tuple[Any, str]:
        """Return the dry run of ``body`` at the first router that responds, or None and why not."""
        problem = "no router is configured"
        for url in (await self._addresses())[:3]:
            answer, problem = await self._send(
                "POST",
                f"{url}/debug/decide",
                {"path": path},
                json=dict(body),
                headers={"x-client-id": client_id},
            )
            if not problem:
                return answer, ""
        return None, problem

    async def _get(self, url: str, parameters: Mapping[str, str] | None) -> tuple[Any, str]:
        return await self._send("GET", url, parameters)

    async def _send(
        self, method: str, url: str, parameters: Mapping[str, str] | None, **more: Any
    ) -> tuple[Any, str]:
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                async with self._http.stream(method, url, params=parameters, **more) as response:
                    async for part in response.aiter_bytes():
                        body += part
                        if len(body) > MAX_ANSWER_BYTES:
                            return None, "its response is too large"
                    answer = httpx.Response(response.status_code, content=bytes(body))
            document = answer.json()
        except TimeoutError:
            return None, f"no response in {self._timeout_seconds:g} s"
        except (httpx.HTTPError, OSError, ValueError) as error:
            return None, str(error) or type(error).__name__
        if answer.status_code != 200:
            said = document.get("error", {}) if isinstance(document, dict) else {}
            return None, str(said.get("message") or f"status {answer.status_code}")
        return document, ""

    async def _addresses(self) -> list[str]:
        urls = list(self._urls)
        if self._dns:
            name, _, port = self._dns.rpartition(":")
            loop = asyncio.get_running_loop()
            infos = await loop.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)
            hosts = sorted({str(info[4][0]) for info in infos})
            urls += [f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host in hosts]
        return urls[:MOST_ROUTERS]
