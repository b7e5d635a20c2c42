"""Protocols for everything outside the router, and every way they can fail.

RouterError
├── UpstreamError                a backend did not answer as it should (see below)
│   ├── ConnectFailed            no connection
│   ├── StaleConnection          a kept-alive connection had been closed; nothing was processed
│   └── ResponseBroken           the response was invalid or incomplete
├── AffinityUnavailable          pins cannot be read or written
└── DiscoveryFailed              the list of backends is not available
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from router_service.routing.vocabulary import State


class RouterError(Exception):
    """Base class of all failures outside the router."""


class AffinityUnavailable(RouterError):
    """The affinity store did not reply in time; the message says how it failed."""


class DiscoveryFailed(RouterError):
    """The backends of a pool cannot be listed; the last known list stays in use."""


class AffinityStore(Protocol):
    """Stores the backend of each session, shared by all replicas. Keys are hashes, values backend names."""

    async def pin(self, key: str) -> str:
        """Return the backend pinned for ``key``, "" if there is none.

        Raises:
            AffinityUnavailable: no reply within the store's timeout.
        """

    async def claim(self, key: str, backend: str, ttl_seconds: float) -> str:
        """Pin ``key`` to ``backend`` unless another pin exists; return the pin in effect.

        Raises:
            AffinityUnavailable: no reply within the store's timeout.
        """

    async def replace(self, key: str, backend: str, ttl_seconds: float) -> None:
        """Pin ``key`` to ``backend`` for ``ttl_seconds``, replacing any pin.

        Raises:
            AffinityUnavailable: no reply within the store's timeout.
        """

    async def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, slots=True)
class Health:
    """The result of a probe of one backend. ``ready`` is the agent's own report; ``refused``: no process listens there.

    ``slots`` is how many requests the engine runs at once (vLLM's ``--max-num-seqs``), ``start_seconds`` how long its last
    start took; None: not reported. ``stores_responses``: the engine may keep responses for later requests; it may if its
    agent does not report that.
    """

    ready: bool
    state: State
    waiting: float = 0.0
    detail: str = ""
    refused: bool = False
    slots: int | None = None
    start_seconds: float | None = None
    stores_responses: bool = True


class HealthProbe(Protocol):
    """Asks one backend for its health."""

    def begin(self, health_url: str, done: Callable[[Health], None]) -> None:
        """Start one probe and call ``done`` once with its finding: ``unreachable`` if the backend does not answer."""

    def forget(self, health_url: str) -> None:
        """Drop everything kept of a backend that is gone."""

    async def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One discovered backend."""

    name: str
    url: str
    health_url: str


class Discovery(Protocol):
    """Lists the backends of one pool and reports changes."""

    def watch(self) -> AsyncIterator[Sequence[Endpoint]]:
        """Yield the whole list once it is known, and again after every change."""

    async def close(self) -> None:
        """Stop watching."""


class UpstreamError(RouterError):
    """A backend did not answer as it should."""


class ConnectFailed(UpstreamError):
    """No connection. ``timed_out``: the attempt timed out, rather than being refused."""

    def __init__(self, why: str, *, timed_out: bool) -> None:
        super().__init__(why)
        self.timed_out = timed_out


class StaleConnection(UpstreamError):
    """A reused connection was closed before any byte of this response."""


class Broken(StrEnum):
    """How much of a response had arrived when it broke off."""

    BEFORE_ANSWER = "before_answer"
    IN_HEAD = "in_head"
    IN_BODY = "in_body"


class ResponseBroken(UpstreamError):
    """The response is not valid HTTP/1.1, or its connection ended before its end."""

    def __init__(self, why: str, stage: Broken) -> None:
        super().__init__(why)
        self.stage = stage


class ConnectionLost(ResponseBroken):
    """The connection ended before the response, so the backend has stopped working on the request."""


class ResponseSink(Protocol):
    """Receives one response as it arrives: a head, body pieces, then exactly one of end or failure."""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Receive status and headers; names are lower case. Interim responses (1xx) are not reported."""

    def on_body(self, data: bytes) -> None:
        """Receive a piece of the body, without transfer coding."""

    def on_end(self) -> None:
        """The body is complete by HTTP framing."""

    def on_failure(self, error: UpstreamError) -> None:
        """The response will never be complete."""


class Exchange(Protocol):
    """A connection to a backend, ready for one request at a time."""

    @property
    def used(self) -> bool:
        """True if the connection has served a request before, so that it may be stale."""

    def send(self, request: bytes, sink: ResponseSink) -> None:
        """Send a whole request, head and body; the response goes to ``sink``."""

    def pause(self) -> None:
        """Stop reading the response until :meth:`resume`."""

    def resume(self) -> None:
        """Continue reading."""

    def abort(self) -> None:
        """Reset the connection. The sink receives no further calls, and the backend sees the disconnect."""

    def close(self) -> None:
        """Close an unused connection."""


class Upstream(Protocol):
    """Connections to backends, by URL."""

    def head(self, url: str, method: bytes, target: bytes) -> bytes:
        """Return the request line and ``host`` header for ``target`` (path and query) at ``url``."""

    def idle(self, url: str) -> Exchange | None:
        """Return an open kept-alive connection, or None."""

    async def connect(self, url: str, timeout_seconds: float) -> Exchange:
        """Open a connection.

        Raises:
            ConnectFailed: refused, unreachable, or not within ``timeout_seconds``.
        """

    def forget(self, url: str) -> None:
        """Close idle connections to a removed backend."""

    def open_connections(self) -> int:
        """Return the number of open connections, idle ones included."""

    async def close(self) -> None:
        """Close all connections; running exchanges are reset."""
