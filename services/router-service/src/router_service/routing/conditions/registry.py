"""The registry of condition kinds. Must not depend on any of them."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from router_service.routing.features import Features
from router_service.routing.hashing import digest

Test = Callable[[Features], bool]


class CannotTell(Exception):
    """The record of a replayed request has no result for a condition; ``args[0]`` is the condition's hash."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of condition.

    ``value`` names the value's type for the reference. ``build`` checks a value and returns the test, or raises
    ValueError with a sentence. ``unrecorded`` conditions test data that no record has (text, headers), so their
    results are recorded instead.
    """

    name: str
    value: str
    example: str
    meaning: str
    build: Callable[[Any], Test]
    unrecorded: bool = False
    needs_user_text: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """A kind with its value. Two conditions with the same hash always have the same result."""

    kind: Kind
    value: Any
    hash: str
    test: Test = field(compare=False)


_KINDS: dict[str, Kind] = {}


def register(
    name: str,
    *,
    value: str,
    example: str,
    meaning: str,
    unrecorded: bool = False,
    needs_user_text: bool = False,
) -> Callable[[Callable[[Any], Test]], Callable[[Any], Test]]:
    """Return a decorator that registers a builder as the kind ``name``."""

    def add(build: Callable[[Any], Test]) -> Callable[[Any], Test]:
        assert name not in _KINDS, name
        _KINDS[name] = Kind(name, value, example, meaning, build, unrecorded, needs_user_text)
        return build

    return add


def kinds() -> dict[str, Kind]:
    """Return every kind by name, in the order of registration."""
    return dict(_KINDS)


def make(name: str, value: Any) -> Condition:
    """Build the condition ``name: value``.

    Raises:
        ValueError: the value is invalid; the message says which values are valid.
    """
    kind = _KINDS[name]
    test = kind.build(value)
    identity = digest("condition", name, json.dumps(value, sort_keys=True, ensure_ascii=False))
    if not kind.unrecorded:
        return Condition(kind, value, identity, test)

    def remembered(features: Features) -> bool:
        truths = features.truths
        known = truths.get(identity)
        if known is None:
            if features.headers is None:
                raise CannotTell(identity)
            known = truths[identity] = test(features)
        return known

    return Condition(kind, value, identity, remembered)


def whole_number(value: Any) -> int:
    """Return ``value`` if it is a whole number from 0, else raise ValueError."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a whole number from 0")
    return value


def true_or_false(value: Any) -> bool:
    """Return ``value`` if it is true or false, else raise ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """Return one text or a list of texts as a tuple, else raise ValueError."""
    found: Iterable[Any] = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(t, str) and t for t in found):
        raise ValueError(f"{value!r} is not a text, nor a list of texts")
    return tuple(found)
