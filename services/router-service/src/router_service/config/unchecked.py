"""Reads parts of a parsed file that may have mistakes, and checks names in it."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from platform_contracts.yaml_document import Document, Place


def at(data: Any, *place: str | int) -> Any:
    """Return the value at a location in unchecked data, or None."""
    for part in place:
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def mapping(value: Any) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def pools_of(rule: Any) -> Iterator[str]:
    """Yield the pools that a rule routes to, with that of its rollout."""
    target = at(rule, "route_to")
    for one in target if isinstance(target, list) else [target]:
        pool = one if isinstance(one, str) else at(one, "pool")
        if isinstance(pool, str):
            yield pool
    rollout = at(rule, "rollout", "to")
    if isinstance(rollout, str):
        yield rollout


def must_be_pool(document: Document, place: Place, pools: Mapping[str, Any]) -> None:
    """Record a problem if the text at ``place`` is not the name of a pool."""
    value = at(document.data, *place)
    if isinstance(value, str) and value not in pools:
        near = get_close_matches(value, [str(pool) for pool in pools], 1)
        hint = f"did you mean {near[0]}? " if near else ""
        document.problem(place, f'"{value}" is not a pool ({hint}known: {listed(pools)})')


def listed(names: Iterable[Any]) -> str:
    """Return names in order, for a message."""
    return ", ".join(sorted(str(name) for name in names)) or "none"
