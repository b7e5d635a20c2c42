"""Checks that a held request and its first token fit into the other timeouts. Works on unchecked data."""

from collections.abc import Iterator, Mapping
from typing import Any

from platform_contracts.yaml_document import Document, Place
from router_service.config.model import TimeoutsSection

_NAMES = ("first_token_seconds", "total_seconds", "edge_silence_seconds")


def check_time_ladder(main: Document, rules: Document) -> None:
    """Report pools that hold requests for too long, by the timeouts of the configuration and of each rule."""
    base = {name: TimeoutsSection.model_fields[name].default for name in _NAMES}
    base |= _numbers(_at(main.data, "timeouts"))
    holds = {}
    for name, pool in _mapping(_at(main.data, "pools")).items():
        hold = _numbers(_at(pool, "when_none_ready")).get("hold_seconds")
        if hold is not None:
            holds[name] = hold
            _check(main, ("pools", name, "when_none_ready", "hold_seconds"), hold, base, "")
    found = _at(rules.data, "rules")
    for index, rule in enumerate(found if isinstance(found, list) else []):
        own = _numbers(_at(rule, "timeouts"))
        if not own:
            continue
        for pool in _targets(rule):
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


def _targets(rule: Any) -> Iterator[str]:
    target = _at(rule, "route_to")
    for one in target if isinstance(target, list) else [target]:
        pool = one if isinstance(one, str) else _at(one, "pool")
        if isinstance(pool, str):
            yield pool
    rollout = _at(rule, "rollout", "to")
    if isinstance(rollout, str):
        yield rollout


def _numbers(section: Any) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in _mapping(section).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _at(data: Any, *place: str) -> Any:
    for part in place:
        data = _mapping(data).get(part)
    return data


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
