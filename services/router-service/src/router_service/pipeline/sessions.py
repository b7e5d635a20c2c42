"""What the pipeline asks of session affinity; knows neither the store nor how keys expire."""

from typing import Protocol

from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.features import Features
from router_service.routing.hashing import digest
from router_service.routing.policy import Policy
from router_service.routing.snapshot import Snapshot


class SessionPins(Protocol):
    """Backends that sessions are pinned to. Keys are hashes of client, pool and session id."""

    def cached(self, key: str) -> str | None:
        """The pin if it is known without asking ("" for none), else None."""

    async def pin(self, key: str) -> str:
        """Ask the store, within its time; "" when there is no pin or no answer. Never raises."""

    def placed(self, key: str, backend: str, *, moved: bool = False) -> None:
        """A request of this session went to ``backend``: pin or renew it, off the request's path."""


async def decide_with_pin(
    features: Features, snapshot: Snapshot, policy: Policy, now: float, pins: SessionPins
) -> tuple[Decision, str]:
    """Decide by the session's pin in the pool the request goes to; the pin's key, "" when none was looked for."""
    found = _FindPin(pins, features.session)
    snapshot.find_pin = found
    decision = decide(features, snapshot, policy, now)
    snapshot.find_pin = None
    if found.pin is None:
        snapshot.pin = await pins.pin(found.key)
        decision = decide(features, snapshot, policy, now)  # of the fleet as it is now, pinned or not
    return decision, found.key


class _FindPin:
    """Looks for the pin in a pool without asking the store; ``pin`` is None when only the store can tell."""

    __slots__ = ("_pins", "_session", "key", "pin")

    def __init__(self, pins: SessionPins, session: str) -> None:
        self._pins = pins
        self._session = session
        self.key = ""
        self.pin: str | None = ""

    def __call__(self, pool: str) -> str:
        self.key = digest("pin", pool, self._session)
        self.pin = self._pins.cached(self.key)
        return self.pin or ""
