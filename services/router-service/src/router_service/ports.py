"""What the router needs of the outside, as protocols, and every way the outside can fail it.

RouterError
├── UpstreamError                a backend did not answer as it should (see below)
│   ├── ConnectFailed            no connection
│   ├── StaleConnection          a kept-alive connection had been closed; nothing was processed
│   └── ResponseBroken           the answer began badly or broke off
├── AffinityUnavailable          pins cannot be read or written now
└── DiscoveryFailed              the list of backends cannot be had now
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from router_service.routing.vocabulary import State


class RouterError(Exception):
    """Everything that the outside can do to the router."""


class AffinityUnavailable(RouterError):
    """The affinity store did not answer in time; the message says how it failed."""


class DiscoveryFailed(RouterError):
    """The backends of a pool cannot be listed now; the last known list stays in use."""


class AffinityStore(Protocol):
    """Where sessions are pinned, shared by all replicas. Keys are hashes, values backend names."""

    async def pin(self, key: str) -> str:
        """Return the backend pinned for ``key``, "" if none.

        Raises:
            AffinityUnavailable: not within the store's time.
        """

    async def claim(self, key: str, backend: str, ttl_seconds: float) -> str:
        """Pin ``key`` to ``backend`` unless another pin exists; return the pin that holds now.

        Raises:
            AffinityUnavailable: not within the store's time.
        """

    async def replace(self, key: str, backend: str, ttl_seconds: float) -> None:
        """Pin ``key`` to ``backend`` whatever was pinned, for ``ttl_seconds`` from now.

        Raises:
            AffinityUnavailable: not within the store's time.
        """

    async def close(self) -> None:
        """Give up connections."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe of one backend found. ``ready`` is the agent's own word."""

    ready: bool
    state: State
    waiting: float = 0.0
    detail: str = ""


class HealthProbe(Protocol):
    """Asks one backend how it is."""

    async def probe(self, health_url: str) -> Health:
        """Return its health; a backend that cannot be reached is ``unreachable``, never an exception."""

    async def close(self) -> None:
        """Give up connections."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One discovered backend."""

    name: str
    url: str
    health_url: str


class Discovery(Protocol):
    """The backends of one pool, as they come and go."""

    def watch(self) -> AsyncIterator[Sequence[Endpoint]]:
        """Yield the whole list whenever it changes, the first time as soon as it is known."""

    async def close(self) -> None:
        """Stop watching."""


class UpstreamError(RouterError):
    """A backend did not answer as it should."""


class ConnectFailed(UpstreamError):
    """No connection. ``timed_out``: too slow, not refused."""

    def __init__(self, why: str, *, timed_out: bool) -> None:
        super().__init__(why)
        self.timed_out = timed_out


class StaleConnection(UpstreamError):
    """A connection that had served before was closed before any byte of this answer."""


class Broken(StrEnum):
    """How far an answer had come when it broke off."""

    BEFORE_ANSWER = "before_answer"
    IN_HEAD = "in_head"
    IN_BODY = "in_body"


class ResponseBroken(UpstreamError):
    """The answer is not HTTP/1.1, or its connection ended before its end."""

    def __init__(self, why: str, stage: Broken) -> None:
        super().__init__(why)
        self.stage = stage


class ConnectionLost(ResponseBroken):
    """The connection ended before the answer's end, and with it whatever the backend was doing for it."""


class ResponseSink(Protocol):
    """Takes one answer as it arrives: a head, body pieces, then exactly one of end and failure."""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Status and headers; names are lower case. Interim answers (1xx) are not reported."""

    def on_body(self, data: bytes) -> None:
        """A piece of the body, without transfer coding."""

    def on_end(self) -> None:
        """The body is complete by HTTP's own framing."""

    def on_failure(self, error: UpstreamError) -> None:
        """The answer will never be complete."""


class Exchange(Protocol):
    """A connection to a backend, ready for one request at a time."""

    @property
    def used(self) -> bool:
        """True when it has served a request before (so it may turn out to be stale)."""

    def send(self, request: bytes, sink: ResponseSink) -> None:
        """Send a whole request, head and body; its answer goes to ``sink``."""

    def pause(self) -> None:
        """Stop reading the answer until :meth:`resume`."""

    def resume(self) -> None:
        """Read on."""

    def abort(self) -> None:
        """Reset the connection; the sink hears nothing more and the backend sees it go."""

    def close(self) -> None:
        """Give up an unused connection."""


class Upstream(Protocol):
    """Connections to backends, by URL."""

    def head(self, url: str, method: bytes, target: bytes) -> bytes:
        """The request line and ``host`` header for ``target`` (path and query) at ``url``."""

    def idle(self, url: str) -> Exchange | None:
        """An open kept-alive connection, or None."""

    async def connect(self, url: str, timeout_seconds: float) -> Exchange:
        """Open a connection.

        Raises:
            ConnectFailed: refused, unreachable, or not within ``timeout_seconds``.
        """

    def forget(self, url: str) -> None:
        """Close idle connections to a backend that is gone."""

    def open_connections(self) -> int:
        """How many connections are open, idle ones included."""

    async def close(self) -> None:
        """Close everything; running exchanges are reset."""
