"""Reads Prometheus for the pages: verdicts, alerts, hits of rules, and the result of `why-ttft`. Bounded in
time.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from observability.why_ttft.answer import Answer, Windows, read_answer
from observability.why_ttft.changes import Change, read_changes
from observability.why_ttft.windows import CannotSay
from platform_contracts import prometheus as contracts

KEPT_SECONDS = 10.0
"""Time for which a result of `why-ttft` is cached, so that several open pages cost Prometheus as much as one.
"""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that could not be read, with the reason."""

    reason: str


class Prometheus:
    """The Prometheus at ``url``. At most two long queries run at once; others wait within their time limit."""

    def __init__(self, url: str, timeout_seconds: float = 5.0) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_seconds, trust_env=False)
        self._long = asyncio.Semaphore(2)
        self._kept: dict[tuple[Any, ...], tuple[float, Any]] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def query(self, expression: str) -> list[dict[str, Any]] | Unknown:
        """Return the result of an instant query."""
        found = await self._get("/api/v1/query", {"query": expression})
        return found if isinstance(found, Unknown) else list(found["result"])

    async def range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]] | Unknown:
        """Return the result of a range query; times are epoch seconds."""
        asked = {"query": expression, "start": str(start), "end": str(end), "step": str(step)}
        found = await self._get("/api/v1/query_range", asked)
        return found if isinstance(found, Unknown) else list(found["result"])

    async def alerts(self) -> list[dict[str, Any]] | Unknown:
        """Return the firing alerts with their annotations, the longest first."""
        found = await self._get("/api/v1/alerts", {})
        if isinstance(found, Unknown):
            return found
        firing = [alert for alert in found["alerts"] if alert.get("state") == "firing"]
        return sorted(firing, key=lambda alert: str(alert.get("activeAt")))

    async def why(self, windows: Windows, pool: str) -> Answer | Unknown:
        """Return the result of `why-ttft`, or why there is none."""
        rounded = tuple(round(t / KEPT_SECONDS) for t in (windows.start, windows.end, windows.baseline_start))

        def ask(client: contracts.Prometheus) -> Answer:
            return read_answer(client, windows, pool)

        return await self._ask(("why", pool, rounded), ask)

    async def changes(self, start: float, end: float) -> list[Change] | Unknown:
        """Return the changes between two epoch times, the oldest first."""
        key = ("changes", round(start / KEPT_SECONDS), round(end / KEPT_SECONDS))
        return await self._ask(key, lambda client: read_changes(client, start, end))

    async def _ask(self, key: tuple[Any, ...], ask: Callable[[contracts.Prometheus], T]) -> T | Unknown:
        now = time.monotonic()
        self._kept = {k: v for k, v in self._kept.items() if now - v[0] < KEPT_SECONDS}
        if key in self._kept:
            kept: T = self._kept[key][1]
            return kept

        def run() -> T:
            with contracts.Prometheus(self._url, self._timeout_seconds) as client:
                return ask(client)

        try:
            async with asyncio.timeout(4 * self._timeout_seconds), self._long:
                found = await asyncio.to_thread(run)
        except CannotSay as problem:
            return Unknown(str(problem))
        except TimeoutError:
            return Unknown(f"Prometheus did not answer in {4 * self._timeout_seconds:g} s")
        self._kept[key] = (time.monotonic(), found)
        return found

    async def _get(self, path: str, parameters: dict[str, str]) -> Any:
        try:
            response = await self._http.get(path, params=parameters)
            document = response.json()
        except (httpx.HTTPError, OSError, ValueError) as error:
            return Unknown(f"Prometheus does not respond ({str(error) or type(error).__name__})")
        if response.status_code != 200:
            return Unknown(f"Prometheus refused the query: {str(document.get('error'))[:200]}")
        return document["data"]
