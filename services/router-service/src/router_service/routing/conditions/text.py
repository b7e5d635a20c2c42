"""Conditions on the text of user messages, in linear time (RE2). A record stores only their results."""

from typing import Any

import re2

from router_service.routing.conditions.registry import Test, register, texts
from router_service.routing.features import Features

MAX_PATTERN_CHARS = 1000

_MAX_FOLDED_CHARS = 64 * 1024
"""A longer text is searched by RE2 alone: RE2 releases the interpreter's lock, folding 10 MiB holds it for 80 ms."""


@register(
    "any_keywords", value="text or list", example='any_keywords: [python, proof, "stack trace"]',
    meaning="a user message contains one of these as a whole word (or words), in any case; system texts, tool results "
    "and assistant messages are not searched",
    unrecorded=True, needs_user_text=True,
)  # fmt: skip
def _any_keywords(value: Any) -> Test:
    words = texts(value)
    if not all(word.split() for word in words):
        raise ValueError(f"{value!r} holds a keyword that is only white space")
    # \b is ASCII in RE2: the boundary is written out so that words of any script are whole words.
    alternatives = "|".join(r"\s+".join(re2.escape(part) for part in word.split()) for word in words)
    search = _search(rf"(?i)(?:^|[^\pL\pN_])(?:{alternatives})(?:$|[^\pL\pN_])")
    # Most texts have none of the words, and a substring search is faster than a call into RE2.
    beginnings = tuple({word.split()[0].casefold() for word in words})

    def test(features: Features) -> bool:
        text = features.user_text or ""
        if len(text) > _MAX_FOLDED_CHARS:
            return search(features)
        folded = text.casefold()
        for beginning in beginnings:  # A loop, because any() over a generator costs more.
            if beginning in folded:
                return search(features)
        return False

    return test


@register(
    "regex", value="text", example=r"regex: '(?i)\bselect\s+.+\s+from\b'",
    meaning="a user message matches this RE2 expression anywhere; other texts are not searched",
    unrecorded=True, needs_user_text=True,
)  # fmt: skip
def _regex(value: Any) -> Test:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a regular expression")
    if len(value) > MAX_PATTERN_CHARS:
        raise ValueError(f"a regular expression of {len(value)} characters is over {MAX_PATTERN_CHARS}")
    return _search(value)


def _search(expression: str) -> Test:
    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(expression, options=options)
    except re2.error as error:
        said = error.args[0].decode() if isinstance(error.args[0], bytes) else error.args[0]
        raise ValueError(f"not an RE2 expression: {said}") from error

    def test(features: Features) -> bool:
        return pattern.search(features.user_text or "") is not None

    return test
