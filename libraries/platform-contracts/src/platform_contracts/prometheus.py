"""Queries against one Prometheus. Owns its HTTP API and its errors; judges no result."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx


class PrometheusError(Exception):
    """A query has no result."""


class NoAnswer(PrometheusError):
    """Prometheus does not respond in time, or what responds is not a Prometheus."""


class Refused(PrometheusError):
    """Prometheus refused a query with ``status``; the message is its own."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Series:
    """One time series: its labels and (epoch seconds, value) points in order of time."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Prometheus:
    """A Prometheus at ``url``. Queries ignore proxy settings of the environment.

    Every query raises `NoAnswer` or `Refused`.
    """

    def __init__(
        self, url: str, timeout_seconds: float = 10.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=timeout_seconds, trust_env=False, transport=transport)

    def reachable(self) -> bool:
        """Return whether Prometheus responds and is ready."""
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def instant(self, query: str, at: float | None = None) -> list[Series]:
        """Evaluate a query at an epoch time (default: now). A range selector (`up[5m]`) gives all its samples."""
        parameters: dict[str, str | float] = {"query": query} if at is None else {"query": query, "time": at}
        return [_series(found) for found in self.results("/api/v1/query", parameters)]

    def values(self, query: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Evaluate a query at an epoch time (default: now) and return labels and value of each series."""
        return [(series.labels, series.points[-1][1]) for series in self.instant(query, at)]

    def range(self, query: str, start: float, end: float, step_seconds: float) -> list[Series]:
        """Evaluate a query every ``step_seconds`` between two epoch times."""
        parameters: dict[str, str | float] = {
            "query": query, "start": start, "end": end, "step": step_seconds
        }  # fmt: skip
        return [_series(found) for found in self.results("/api/v1/query_range", parameters)]

    def results(self, path: str, parameters: Mapping[str, str | float]) -> list[dict[str, Any]]:
        """Return `data.result` of a query as Prometheus sends it."""
        try:
            response = self._http.get(path, params=dict(parameters))
        except httpx.HTTPError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        if response.status_code != 200:
            raise Refused(response.status_code, response.text[:300])
        try:
            return list(response.json()["data"]["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise NoAnswer(f"{self.url} is not a Prometheus") from error

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _series(found: dict[str, Any]) -> Series:
    points = found["values"] if "values" in found else [found["value"]]
    return Series(found["metric"], [(float(at), float(value)) for at, value in points])
