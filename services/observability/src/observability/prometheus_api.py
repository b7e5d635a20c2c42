"""The Prometheus that pages are drawn from: an unreachable server gives empty results, and the page says so."""

from collections.abc import Mapping
from typing import Any

from platform_contracts.prometheus import NoAnswer, Prometheus


class PagePrometheus(Prometheus):
    """Returns no series while the server does not respond; raises `Refused` for a query that it refuses."""

    def results(self, path: str, parameters: Mapping[str, str | float]) -> list[dict[str, Any]]:
        try:
            return super().results(path, parameters)
        except NoAnswer:
            return []
