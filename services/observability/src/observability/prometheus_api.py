"""Queries against one Prometheus. A server that is not there is no error: reports do without it."""

from dataclasses import dataclass

import httpx

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Series:
    """One time series: its labels and (epoch seconds, value) points."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Prometheus:
    """A Prometheus at ``url``; every query returns an empty list when it cannot be reached."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS)

    def reachable(self) -> bool:
        """Whether it answers at all."""
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def range(self, query: str, start: float, end: float, step_seconds: float) -> list[Series]:
        """Evaluate ``query`` every ``step_seconds`` between two epoch times."""
        result = self._ask(
            "/api/v1/query_range", {"query": query, "start": start, "end": end, "step": step_seconds}
        )
        return [Series(r["metric"], [(t, float(v)) for t, v in r["values"]]) for r in result]

    def instant(self, query: str, at: float) -> list[Series]:
        """Evaluate ``query`` at one epoch time."""
        result = self._ask("/api/v1/query", {"query": query, "time": at})
        return [Series(r["metric"], [(r["value"][0], float(r["value"][1]))]) for r in result]

    def _ask(self, path: str, parameters: dict[str, str | float]) -> list[dict]:  # type: ignore[type-arg]
        try:
            response = self._http.get(path, params=parameters)
        except httpx.TransportError:
            return []
        if response.status_code != 200:
            raise ValueError(f"Prometheus refused {parameters['query']!r}: {response.text[:300]}")
        return list(response.json()["data"]["result"])
