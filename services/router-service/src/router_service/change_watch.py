"""Detects changes of the fleet and the configuration, for one log line and one count each. Changes nothing."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from router_service.config import RouterConfig
from router_service.routing.snapshot import BackendView

Values = Mapping[str, Any]


class ChangeWatch:
    """Compares the fleet with its state at the previous call. The first call only stores the state."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], tuple[str, bool]] | None = None
        self._affinity_up = True

    def look(self, backends: Iterable[BackendView], affinity_up: bool) -> Iterator[Values]:
        """Yield the fields of each change: ``kind``, its subject, ``before`` and ``after``."""
        states = {(b.pool, b.name): (str(b.unusable or "ready"), b.breaker_open) for b in backends}
        known, self._states = self._states, states
        was_up, self._affinity_up = self._affinity_up, affinity_up
        if known is None or (states == known and was_up == affinity_up):
            return
        for (pool, backend), (state, is_open) in states.items():
            if (pool, backend) not in known:
                yield {"kind": "backend_joined", "pool": pool, "backend": backend, "after": state}
                continue
            before, was_open = known[pool, backend]
            if state != before:
                yield {
                    "kind": "backend_state",
                    "pool": pool,
                    "backend": backend,
                    "before": before,
                    "after": state,
                }
            if is_open != was_open:
                words = ("open", "closed") if was_open else ("closed", "open")
                yield {
                    "kind": "breaker",
                    "pool": pool,
                    "backend": backend,
                    "before": words[0],
                    "after": words[1],
                }
        for pool, backend in known.keys() - states.keys():
            yield {
                "kind": "backend_left",
                "pool": pool,
                "backend": backend,
                "before": known[pool, backend][0],
            }
        if was_up != affinity_up:
            words = ("lost", "up") if affinity_up else ("up", "lost")
            yield {"kind": "affinity_store", "before": words[0], "after": words[1]}


def configuration_change(before: RouterConfig, after: RouterConfig) -> Values:
    """Return the fields of a configuration change: both hashes, and the names of the rules that differ."""
    old = {rule.name: rule for rule in before.rules}
    new = {rule.name: rule for rule in after.rules}
    return {
        "kind": "configuration",
        "before": before.hash,
        "after": after.hash,
        "rules_added": [name for name in new if name not in old],
        "rules_removed": [name for name in old if name not in new],
        "rules_changed": [name for name, rule in new.items() if name in old and old[name] != rule],
    }
