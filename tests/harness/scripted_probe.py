"""A probe for tests that answers from a table."""

import asyncio
from collections.abc import Callable

from router_service.ports import Health
from router_service.routing.vocabulary import State


class ScriptedProbe:
    """``answers`` maps a health URL to its health; an unknown URL refuses. ``held`` probes wait for :meth:`release`."""

    def __init__(self, answers: dict[str, Health] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[str] = []
        self.forgotten: list[str] = []
        self.hold = False
        self.held: list[tuple[str, Callable[[Health], None]]] = []

    def begin(self, health_url: str, done: Callable[[Health], None]) -> None:
        self.asked.append(health_url)
        if self.hold:
            self.held.append((health_url, done))
        else:
            asyncio.get_running_loop().call_soon(done, self._answer(health_url))

    def release(self) -> None:
        """Answer every held probe."""
        held, self.held = self.held, []
        for url, done in held:
            done(self._answer(url))

    def forget(self, health_url: str) -> None:
        self.forgotten.append(health_url)

    async def close(self) -> None:
        """Nothing to close."""

    def _answer(self, url: str) -> Health:
        refused = Health(False, State.UNREACHABLE, detail="scripted refusal", refused=True)
        return self.answers.get(url, refused)
