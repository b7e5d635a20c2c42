"""Backends behind one DNS name (a headless Service), resolved periodically."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from router_service.config.model import Discover
from router_service.discovery.naming import endpoint
from router_service.ports import DiscoveryFailed, Endpoint

Resolve = Callable[[str, int], Awaitable[list[str]]]


async def resolve(name: str, port: int) -> list[str]:
    """Return the addresses of a name, IPv4 and IPv6, in a stable order.

    Raises:
        DiscoveryFailed: the name cannot be resolved.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DiscoveryFailed(f"{name}: {error}") from error
    return sorted({str(info[4][0]) for info in found})


class DnsDiscovery:
    """Resolves the name every ``interval_seconds`` and keeps the last list if that fails.

    It calls ``report`` after every attempt with the error, or with None.
    """

    def __init__(
        self,
        pool: str,
        discover: Discover,
        report: Callable[[str | None], None] = lambda problem: None,
        resolver: Resolve = resolve,
    ) -> None:
        assert discover.dns is not None
        self._pool = pool
        self._discover = discover
        self._name = discover.dns
        self._report = report
        self._resolve = resolver

    async def watch(self) -> AsyncIterator[Sequence[Endpoint]]:
        known: list[str] | None = None
        while True:
            try:
                addresses = await self._resolve(self._name, self._discover.port)
            except DiscoveryFailed as failure:
                self._report(str(failure))
            else:
                self._report(None)
                if addresses != known:
                    known = addresses
                    yield [endpoint(self._pool, address, self._discover) for address in addresses]
            await asyncio.sleep(self._discover.interval_seconds)

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""
