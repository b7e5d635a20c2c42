"""A Prometheus that is asked for a report: what it does not answer is an error, not an answer with nothing in it."""

from typing import Any

import httpx

from observability.prometheus_api import Prometheus

SCRAPE_SECONDS = 5.0
SETTLE_SECONDS = SCRAPE_SECONDS + 1.0
"""So long after a run's end are its last figures known."""
PATIENCE = 2
"""After so many queries without an answer nothing more is asked: each of them takes a whole timeout."""


class Unanswered(Exception):
    """A query was refused or not answered in time; the message says which of them."""


class AskedPrometheus(Prometheus):
    """Raises `Unanswered` where its parent returns an empty list or a refusal's whole text."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._silences = 0

    def _ask(self, path: str, parameters: dict[str, str | float]) -> list[dict[str, Any]]:
        if self._silences >= PATIENCE:
            raise Unanswered("Prometheus had stopped answering")
        try:
            response = self._http.get(path, params=parameters)
        except httpx.TransportError as error:
            self._silences += 1
            raise Unanswered(f"Prometheus did not answer ({type(error).__name__})") from error
        if response.status_code != 200:
            raise Unanswered(f"Prometheus refused the query with status {response.status_code}")
        try:
            return list(response.json()["data"]["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise Unanswered("what answered is not a Prometheus") from error
