"""The interface of session affinity that the pipeline uses. Must not know the store or how keys expire."""

from typing import Protocol

from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.features import Features
from router_service.routing.hashing import digest
from router_service.routing.policy import Policy
from router_service.routing.snapshot import Snapshot


class SessionPins(Protocol):
    """The backends that sessions are pinned to. Keys are hashes of client, pool and session id.

    ``up`` is False while the store fails.
    """

    up: bool

    def cached(self, key: str) -> str | None:
        """Return the pin from the cache ("" for none), or None if only the store can tell."""

    async def pin(self, key: str) -> str:
        """Query the store, within its timeout; return "" if there is no pin or no reply. Never raises."""

    def placed(self, key: str, backend: str, *, moved: bool = False) -> None:
        """Record, off the request's path, that a request of this session went to ``backend``: pin or renew
        it.
        """


async def decide_with_pin(
    features: Features, snapshot: Snapshot, policy: Policy, now: float, pins: SessionPins
) -> tuple[Decision, str]:
    """Decide by the session's pin in the request's pool. Also return the pin's key, "" if no pin was looked
    up.
    """
    found = _FindPin(pins, features.session)
    snapshot.find_pin = found
    decision = decide(features, snapshot, policy, now)
    snapshot.find_pin = None
    if found.pin is None:
        snapshot.pin = await pins.pin(found.key)
        # The fleet may have changed during the query: decide again, with or without the pin.
        decision = decide(features, snapshot, policy, now)
    return decision, found.key


class _FindPin:
    """Looks up the pin for a pool in the cache; ``pin`` is None if only the store can tell."""

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
