"""Limits what clients can learn about each other through an engine: shared prefix-cache entries and engine metrics."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from router_service.routing.conditions.request import name_matcher
from router_service.routing.hashing import digest

_SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Privacy:
    """Client ids, or globs of them: which clients share prefix-cache entries, and which receive the engine's
    ``metrics``.

    Clients that share entries can find out by timing whether another of them sent a prompt. Engine metrics reveal the
    same without a clock.
    """

    share_prefixes_between: tuple[str, ...] = ()
    show_engine_metrics_to: tuple[str, ...] = ()
    shares: Callable[[str], bool] = field(init=False, compare=False, repr=False)
    shows_metrics: Callable[[str], bool] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", name_matcher(self.share_prefixes_between))
        object.__setattr__(self, "shows_metrics", name_matcher(self.show_engine_metrics_to))

    def salt_of(self, client_id: str) -> str:
        """Return the client's prefix-cache salt, the same on every replica."""
        return _salt(_SHARED, "") if self.shares(client_id) else _salt("client", client_id)


@lru_cache(maxsize=4096)
def _salt(kind: str, client_id: str) -> str:
    return digest("salt", kind, client_id) + digest("cache", kind, client_id)
