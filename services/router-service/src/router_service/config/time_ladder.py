"""Checks that a held request and its first token fit into the other timeouts. Works on unchecked data."""

from collections.abc import Mapping
from typing import Any

from platform_contracts.yaml_document import Document, Place
from router_service.config.model import TimeoutsSection
from router_service.config.unchecked import at, mapping, pools_of

_NAMES = ("first_token_seconds", "total_seconds", "edge_silence_seconds")


def check_time_ladder(main: Document, rules: Document) -> None:
    """Report pools that hold requests for too long, by the timeouts of the configuration and of each rule."""
    base = {name: TimeoutsSection.model_fields[name].default for name in _NAMES}
    base |= _numbers(at(main.data, "timeouts"))
    holds = {}
    for name, pool in mapping(at(main.data, "pools")).items():
        hold = _numbers(at(pool, "when_none_ready")).get("hold_seconds")
        if hold is not None:
            holds[name] = hold
            _check(main, ("pools", name, "when_none_ready", "hold_seconds"), hold, base, "")
    found = at(rules.data, "rules")
    for index, rule in enumerate(found if isinstance(found, list) else []):
        own = _numbers(at(rule, "timeouts"))
        if not own:
            continue
        for pool in pools_of(rule):
            if pool in holds:
                _check(rules, ("rules", index, "timeouts"), holds[pool], base | own, f" of pool {pool}")
                break


def _check(
    document: Document, place: Place, hold: float, timeouts: Mapping[str, float], of_pool: str
) -> None:
    needed = hold + timeouts["first_token_seconds"]
    name, limit = min((timeouts[key], key) for key in _NAMES[1:])[::-1]
    if needed > limit:
        document.problem(
            place,
            f"hold_seconds {hold:g}{of_pool} and first_token_seconds {timeouts['first_token_seconds']:g} are "
            f"{needed:g} together, over {name} {limit:g}; lower them, or raise {name}",
        )


def _numbers(section: Any) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in mapping(section).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
