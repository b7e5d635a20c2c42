"""Session pins in process memory, for one replica without Redis and for tests."""

from collections import OrderedDict
from collections.abc import Callable

MAX_PINS = 100_000


class MemoryStore:
    """Stores at most ``MAX_PINS`` pins and evicts the least recently used. ``clock`` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pins: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def pin(self, key: str) -> str:
        found = self._pins.get(key)
        if found is None or found[1] <= self._clock():
            return ""
        return found[0]

    async def claim(self, key: str, backend: str, ttl_seconds: float) -> str:
        known = await self.pin(key)
        await self.replace(key, known or backend, ttl_seconds)
        return known or backend

    async def replace(self, key: str, backend: str, ttl_seconds: float) -> None:
        self._pins[key] = (backend, self._clock() + ttl_seconds)
        self._pins.move_to_end(key)
        if len(self._pins) > MAX_PINS:
            self._pins.popitem(last=False)

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""
