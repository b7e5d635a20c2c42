"""Keep-alive connections to every backend, opened on demand. Uses addresses, not backend names.

The number of connections has no limit. `limits.max_in_flight_per_backend` already limits the requests of a backend, and
a second limit here would add a queue without metrics.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from time import monotonic
from typing import NamedTuple

from router_service.dead_peer import detect_dead_peer
from router_service.ports import ConnectFailed
from router_service.upstream.address import Address
from router_service.upstream.connection import UpstreamConnection
from router_service.upstream.round_trip import round_trip_seconds


class Segments(NamedTuple):
    """Counts of TCP data segments in both directions; ``repaired`` ones were retransmitted or arrived after a gap."""

    all: int
    repaired: int


COUNTED_AT_ONCE = 250
"""Most connections whose segments one call counts: each takes a system call, and the event loop waits meanwhile."""

_NO_SEGMENTS = Segments(0, 0)


class _Counted:
    """The URL of one connection and its segments counted so far."""

    __slots__ = ("before", "url")

    def __init__(self, url: str) -> None:
        self.url = url
        self.before = _NO_SEGMENTS


class UpstreamPool:
    """Connections by backend URL, reused last in first out, so that surplus connections expire.

    ``keep_alive_seconds`` must be shorter than the backend's keep-alive time. Otherwise the backend could close a
    connection while the router sends a request on it.
    """

    def __init__(self, keep_alive_seconds: float = 4.0, tls: ssl.SSLContext | None = None) -> None:
        self._keep_alive_seconds = keep_alive_seconds
        self._tls = tls
        self._addresses: dict[str, Address] = {}
        self._idle: dict[str, deque[UpstreamConnection]] = {}
        self._open: dict[UpstreamConnection, _Counted] = {}
        self._carried: dict[str, Segments] = {}
        self._uncounted: Iterator[UpstreamConnection] = iter(())
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False

    def address(self, url: str) -> Address:
        """Return the parsed address of ``url`` (cached)."""
        address = self._addresses.get(url)
        if address is None:
            address = self._addresses[url] = Address.parse(url)
        return address

    def head(self, url: str, method: bytes, target: bytes) -> bytes:
        """Return the request line and ``host`` header for ``target`` at ``url``."""
        address = self._addresses.get(url) or self.address(url)
        return b"%b %b%b HTTP/1.1\r\nhost: %b\r\n" % (method, address.prefix, target, address.authority)

    def idle(self, url: str) -> UpstreamConnection | None:
        """Return an open idle connection to ``url``, or None. Makes no system call."""
        idle = self._idle.get(url)
        if not idle:
            return None
        oldest_allowed = monotonic() - self._keep_alive_seconds
        while idle:
            connection = idle.pop()
            if not connection.open:
                continue
            if connection.idle_since < oldest_allowed:
                connection.close()
                continue
            return connection
        return None

    async def connect(self, url: str, timeout_seconds: float) -> UpstreamConnection:
        """Open a new connection to ``url``.

        Raises:
            ConnectFailed: refused, unreachable, name not resolved, TLS failed, or too slow
                (``timed_out`` tells the last from the others).
        """
        if self._closed:
            raise ConnectFailed("the router is closing its connections", timed_out=False)
        address = self.address(url)
        loop = asyncio.get_running_loop()

        def release(connection: UpstreamConnection) -> None:
            connection.idle_since = monotonic()
            idle = self._idle.get(url)
            if idle is None:
                idle = self._idle[url] = deque()
            idle.append(connection)
            if self._reaper is None:
                self._reaper = loop.call_later(1.0, self._reap)

        def forget(connection: UpstreamConnection) -> None:
            self._open.pop(connection, None)

        connection = UpstreamConnection(release, self._count, forget)
        tls = None
        if address.tls:
            tls = self._tls = self._tls or ssl.create_default_context()
        try:
            async with asyncio.timeout(timeout_seconds):
                transport, _ = await loop.create_connection(
                    lambda: connection, address.host, address.port, ssl=tls
                )
        except TimeoutError as error:
            raise ConnectFailed(f"no connection within {timeout_seconds:g} s", timed_out=True) from error
        except OSError as error:
            raise ConnectFailed(str(error), timed_out=False) from error
        detect_dead_peer(transport.get_extra_info("socket"))
        self._open[connection] = _Counted(url)
        return connection

    async def round_trip_seconds(self, url: str, timeout_seconds: float) -> float | None:
        """Return the TCP round trip time to ``url``, None if it is unreachable or the system cannot measure it."""
        return await round_trip_seconds(self.address(url), timeout_seconds)

    def segments(self) -> Mapping[str, Segments]:
        """Return TCP data segments by URL. Of many open connections, each call counts `COUNTED_AT_ONCE`, in turn."""
        counted = 0
        if len(self._open) > COUNTED_AT_ONCE:
            for connection in islice(self._uncounted, COUNTED_AT_ONCE):
                self._count(connection)
                counted += 1
        if counted < COUNTED_AT_ONCE:
            self._uncounted = iter(list(self._open))
            for connection in islice(self._uncounted, COUNTED_AT_ONCE - counted):
                self._count(connection)
        return self._carried

    def _count(self, connection: UpstreamConnection) -> None:
        """Add the segments of a connection since its last count. Called on demand, and before it closes."""
        counted = self._open.get(connection)
        info = connection.tcp_info() if counted is not None else None
        if counted is None or info is None or counted.url not in self._addresses:  # Its backend was removed.
            return
        carried = self._carried.get(counted.url, _NO_SEGMENTS)
        self._carried[counted.url] = Segments(
            carried.all + info.segments - counted.before.all,
            carried.repaired + info.repaired - counted.before.repaired,
        )
        counted.before = Segments(info.segments, info.repaired)

    def forget(self, url: str) -> None:
        """Close the idle connections to a backend that is no longer configured."""
        for connection in self._idle.pop(url, ()):
            connection.close()
        self._addresses.pop(url, None)
        self._carried.pop(url, None)

    def open_connections(self) -> int:
        """Return the number of open connections, including idle ones."""
        return len(self._open)

    async def close(self) -> None:
        """Close all connections and reset running exchanges."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # lets the transports run their connection_lost

    def _reap(self) -> None:
        oldest_allowed = monotonic() - self._keep_alive_seconds
        waiting = False
        for idle in self._idle.values():
            while idle and (not idle[0].open or idle[0].idle_since < oldest_allowed):
                idle.popleft().close()
            waiting = waiting or bool(idle)
        self._reaper = asyncio.get_running_loop().call_later(1.0, self._reap) if waiting else None
