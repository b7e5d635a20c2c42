"""Remembers which backends served a prompt's beginning, to tell where its prefix cache was expected.

Decides nothing: routing never reads it.
"""

from collections import OrderedDict
from typing import Literal

PrefixState = Literal["new", "kept", "moved"]
"""``kept``: this backend served the same beginning within its lifetime; ``moved``: only others did; ``new``: none."""

MOST_PREFIXES = 20_000
"""A prefix and its backends take about 300 bytes."""

MOST_HOMES = 4
"""Backends remembered for each prefix, the latest first."""


class CacheHomes:
    """The latest backends of each prefix. Times are seconds on one clock."""

    def __init__(self, lifetime_seconds: float) -> None:
        self.lifetime_seconds = lifetime_seconds
        self._homes: OrderedDict[str, tuple[tuple[str, float], ...]] = OrderedDict()

    def served(self, prefix: str, backend: str, now: float) -> PrefixState:
        """Record that ``backend`` served ``prefix``, and return the state before that."""
        homes = self._homes
        known = homes.get(prefix, ())
        state: PrefixState = "new"
        rest = []
        for home in known:
            if now - home[1] > self.lifetime_seconds:
                continue
            if home[0] == backend:
                state = "kept"
            else:
                rest.append(home)
        if state == "new" and rest:
            state = "moved"
        homes[prefix] = ((backend, now), *rest[: MOST_HOMES - 1])
        homes.move_to_end(prefix)
        if len(homes) > MOST_PREFIXES:
            homes.popitem(last=False)
        return state
