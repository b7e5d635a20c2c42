"""Queries Prometheus for a report: a missing answer is an error, never an empty result."""

from collections.abc import Mapping
from typing import Any

from platform_contracts.prometheus import NoAnswer, Prometheus, Refused

SCRAPE_SECONDS = 5.0
SETTLE_SECONDS = SCRAPE_SECONDS + 1.0
"""Seconds after a run's end until its last figures are known."""
PATIENCE = 2
"""Stop after this many queries without an answer: each takes a whole timeout."""


class Unanswered(Exception):
    """A query was rejected or timed out; the message says which."""


class AskedPrometheus(Prometheus):
    """Raises `Unanswered`, and stops asking a server that does not respond."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._silences = 0

    def results(self, path: str, parameters: Mapping[str, str | float]) -> list[dict[str, Any]]:
        if self._silences >= PATIENCE:
            raise Unanswered("Prometheus had stopped answering")
        try:
            return super().results(path, parameters)
        except NoAnswer as error:
            self._silences += 1
            raise Unanswered(f"Prometheus did not answer ({error})") from error
        except Refused as error:
            raise Unanswered(f"Prometheus refused the query with status {error.status}") from error
