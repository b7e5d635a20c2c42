"""What the pipeline asks of session affinity; knows neither the store nor how keys expire."""

from typing import Protocol


class SessionPins(Protocol):
    """Backends that sessions are pinned to. Keys are hashes of client, pool and session id."""

    def cached(self, key: str) -> str | None:
        """The pin if it is known without asking ("" for none), else None."""

    async def pin(self, key: str) -> str:
        """Ask the store, within its time; "" when there is no pin or no answer. Never raises."""

    def placed(self, key: str, backend: str, *, moved: bool = False) -> None:
        """A request of this session went to ``backend``: pin or renew it, off the request's path."""
