"""Detects changes of the fleet and the configuration, for one log line and one count each. Changes nothing."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from router_service.config import RouterConfig
from router_service.routing.hashing import digest
from router_service.routing.snapshot import BackendView

Values = Mapping[str, Any]

SHOWN_SECONDS = 600.0
"""How long the time of a change stays in the metrics. It covers many scrapes; then the series is removed."""
MOST_SHOWN = 500

STORE_SECONDS = 3.0
"""A change of the affinity store is one only if it lasts this long: one late answer of a busy store is none."""


class ChangeTimes:
    """The time of the last change of each kind and subject, for the metrics. ``clock`` returns epoch seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: dict[tuple[str, str, str, str], float] = {}

    def note(self, change: Values) -> None:
        """Store that ``change`` happens now, or `lasted_seconds` ago; of more than :data:`MOST_SHOWN` forget the oldest."""
        kind, pool, backend, after = (str(change.get(k, "")) for k in ("kind", "pool", "backend", "after"))
        labels = (kind, pool, backend, after)
        self._times.pop(labels, None)
        self._times[labels] = self._clock() - float(change.get("lasted_seconds", 0.0))
        if len(self._times) > MOST_SHOWN:
            del self._times[next(iter(self._times))]

    def recent(self) -> list[tuple[tuple[str, ...], float]]:
        """Return the changes of the last :data:`SHOWN_SECONDS`."""
        since = self._clock() - SHOWN_SECONDS
        self._times = {labels: at for labels, at in self._times.items() if at >= since}
        return list(self._times.items())


class RuleHashes:
    """A hash of each rule, computed once for each configuration."""

    def __init__(self) -> None:
        self._config: RouterConfig | None = None
        self._hashes: list[tuple[str, ...]] = []

    def of(self, config: RouterConfig) -> list[tuple[str, ...]]:
        """Return name and hash of every rule of ``config``."""
        if config is not self._config:
            self._config = config
            self._hashes = [
                (rule.name, digest(json.dumps(rule.model_dump(mode="json"), sort_keys=True)))
                for rule in config.rules
            ]
        return self._hashes


class ChangeWatch:
    """Compares the fleet with its state at the previous call. The first call only stores the state. ``clock`` returns
    seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._states: dict[tuple[str, str], tuple[str, bool]] | None = None
        self._affinity_up = True
        self._affinity_turned: float | None = None
        """When the store's state began to differ from the last reported one."""

    def look(self, backends: Iterable[BackendView], affinity_up: bool) -> Iterator[Values]:
        """Yield the fields of each change: ``kind``, its subject, ``before`` and ``after``."""
        states = {(b.pool, b.name): (str(b.unusable or "ready"), b.breaker_open) for b in backends}
        known, self._states = self._states, states
        if known is None or (states == known and self._affinity_up == affinity_up):
            self._affinity_turned = None
            return
        yield from self._store(affinity_up)
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

    def _store(self, is_up: bool) -> Iterator[Values]:
        if is_up == self._affinity_up:
            self._affinity_turned = None
            return
        now = self._clock()
        if self._affinity_turned is None:
            self._affinity_turned = now
        lasted = now - self._affinity_turned
        if lasted >= STORE_SECONDS:
            words = ("lost", "up") if is_up else ("up", "lost")
            self._affinity_up, self._affinity_turned = is_up, None
            yield {
                "kind": "affinity_store",
                "before": words[0],
                "after": words[1],
                "lasted_seconds": round(lasted, 1),
            }


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


def rollout_changes(before: RouterConfig, after: RouterConfig) -> Iterator[Values]:
    """Yield the fields of each rollout whose share differs: percent before and after, and the new configuration hash."""
    for rule in sorted(before.shares.keys() | after.shares.keys()):
        old, new = before.shares.get(rule), after.shares.get(rule)
        was, now = (0.0 if share is None else share.percent for share in (old, new))
        share = new or old
        if share is not None and was != now:
            yield {
                "kind": "rollout",
                "rule": rule,
                "pool": share.to,
                "before": f"{was:g}",
                "after": f"{now:g}",
                "config_hash": after.hash,
            }
