"""Request classes: which class a request belongs to. Knows nothing of shares, which the queue keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from router_service.routing.by_client import ByClient

UNCLASSED = "default"
"""The class of requests that nothing assigns to another class. It keeps a share only if it is configured."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Assigns requests to classes, and knows the priority that engines receive.

    ``clients`` maps client ids, or globs of them, to a class, and ``tiers`` values of ``service_tier``. ``priorities``
    maps classes to the priority in the engine's request (vLLM: a lower value is scheduled first).
    """

    clients: Mapping[str, str] = field(default_factory=dict)
    tiers: Mapping[str, str] = field(default_factory=dict)
    priorities: Mapping[str, int] = field(default_factory=dict)
    _of_client: ByClient[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_of_client", ByClient(self.clients))

    def name_for(self, of_rule: str, client_id: str, service_tier: str) -> str:
        """Return the class of a request: that of its rule, else of its client, else of its ``service_tier``."""
        return of_rule or self._of_client.get(client_id) or self.tiers.get(service_tier, UNCLASSED)
