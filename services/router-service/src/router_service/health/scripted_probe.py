"""A probe for tests that answers what it was told."""

from router_service.ports import Health
from router_service.routing.vocabulary import State


class ScriptedProbe:
    """``answers`` maps a health URL to its health; an unknown URL is unreachable."""

    def __init__(self, answers: dict[str, Health] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[str] = []

    async def probe(self, health_url: str) -> Health:
        self.asked.append(health_url)
        return self.answers.get(health_url, Health(False, State.UNREACHABLE, detail="ConnectError: scripted"))

    async def close(self) -> None:
        """Nothing to close."""
