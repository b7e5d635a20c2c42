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
