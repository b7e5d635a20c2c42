"""The models that each client may use."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from router_service.routing.by_client import ByClient
from router_service.routing.conditions.request import name_matcher

Matches = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class ModelAccess:
    """The models that each client may use. ``models`` maps client ids, or globs of them, to model names or globs.

    Where several match a client, :class:`ByClient` decides; a client that matches nothing may use every model. With
    ``hide_forbidden`` a forbidden model looks like an unknown one.
    """

    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hide_forbidden: bool = False
    _allowed: ByClient[Matches] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        allowed = {client: name_matcher(names) for client, names in self.models.items()}
        object.__setattr__(self, "_allowed", ByClient(allowed))

    def allows(self, client_id: str, model: str, stands_for: Collection[str] = ()) -> bool:
        """Return whether the client may use ``model``.

        ``stands_for`` has the models of an alias. An alias is allowed by its own name, or if all its models are
        allowed.
        """
        allowed = self._allowed.get(client_id)
        if allowed is None or allowed(model):
            return True
        return bool(stands_for) and all(allowed(name) for name in stands_for)
