"""Backends configured by name."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from router_service.config.model import Backend
from router_service.ports import Endpoint


class StaticDiscovery:
    """Yields the configured list once, because it changes only with the configuration."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._endpoints = [
            Endpoint(name, backend.url, backend.health_url or backend.url.rstrip("/") + "/health")
            for name, backend in backends.items()
        ]

    async def watch(self) -> AsyncIterator[Sequence[Endpoint]]:
        yield self._endpoints
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""
