"""Values that a configuration gives to clients, by client id or glob."""

from collections.abc import Mapping
from typing import Generic, TypeVar

from router_service.routing.conditions.request import is_glob, name_matcher

T = TypeVar("T")


class ByClient(Generic[T]):
    """Values by client id or glob. A client's own id takes precedence over globs, and earlier globs over later ones."""

    __slots__ = ("_exact", "_globs")

    def __init__(self, values: Mapping[str, T]) -> None:
        self._exact = {client: value for client, value in values.items() if not is_glob(client)}
        self._globs = [(name_matcher([client]), value) for client, value in values.items() if is_glob(client)]

    def get(self, client_id: str) -> T | None:
        """Return the client's value, or None if nothing matches the client."""
        own = self._exact.get(client_id)
        if own is not None:
            return own
        for matches, value in self._globs:
            if matches(client_id):
                return value
        return None
