"""The condition on request headers. A record stores the result, not the headers."""

from typing import Any

from router_service.routing.conditions.registry import Test, register
from router_service.routing.conditions.request import name_matcher
from router_service.routing.features import Features


@register(
    "header", value="mapping of name to text", example='header: {x-canary: "yes", x-team: "search-*"}',
    meaning="every named header has this value or matches this glob; a missing header matches nothing",
    unrecorded=True,
)  # fmt: skip
def _header(value: Any) -> Test:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{value!r} is not a mapping of header names to texts")
    matchers = []
    for name, wanted in value.items():
        if not isinstance(name, str) or not isinstance(wanted, str):
            raise ValueError(f"{name}: {wanted!r} is not a text (put yes, no and numbers in quotes)")
        matchers.append((name.lower(), name_matcher([wanted])))

    def test(features: Features) -> bool:
        headers = features.headers
        for name, matches in matchers:
            found = None if headers is None else headers.get(name)
            if found is None or not matches(found):
                return False
        return True

    return test
