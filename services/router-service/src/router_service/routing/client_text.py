"""Limits for client-chosen texts that are repeated in records, log lines, metric labels, headers or errors.

Must not depend on any other module: every module that repeats such a text uses these functions.
"""

import re

MAX_TEXT_BYTES = 256
"""Maximum size of a client-chosen text outside the request itself."""

LONG_MODEL = f"(longer than {MAX_TEXT_BYTES} bytes)"
"""Replaces a model name over :data:`MAX_TEXT_BYTES`. No configured name has brackets."""

UNNAMED_MODEL = "(not a model name)"
"""Replaces, in records, a ``model`` that is not configured and has spaces or other characters that no name has."""

_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff]")
"""Control characters except the line feed, and characters that change the direction or the line of a text."""

_NAME = re.compile(r"[A-Za-z0-9._:@+/\-]+")


def bounded(text: str, most_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return ``text`` cut to ``most_bytes`` of UTF-8, at a character boundary."""
    if len(text) * 4 <= most_bytes:
        return text
    # A code point takes at least one byte: the rest of a long text need not be encoded.
    encoded = text[:most_bytes].encode("utf-8", "replace")
    if len(text) <= most_bytes and len(encoded) <= most_bytes:
        return text
    return encoded[:most_bytes].decode("utf-8", "ignore")


def bounded_model(name: str) -> str:
    """Return a requested model's name, or :data:`LONG_MODEL` if it is over :data:`MAX_TEXT_BYTES`."""
    return name if len(name) * 4 <= MAX_TEXT_BYTES or bounded(name) == name else LONG_MODEL


def recordable_model(name: str) -> str:
    """Return the form of an unconfigured model name that a record may contain.

    Prompts and other texts in ``model`` have characters that no model name has.
    """
    return name if not name or name == LONG_MODEL or _NAME.fullmatch(name) else UNNAMED_MODEL


def printable(text: str) -> str:
    """Return ``text`` for a terminal: control characters except line ends are written as ``\\xNN`` or ``\\uNNNN``.

    A log may contain a client's text; printed raw, an escape sequence could rewrite the screen.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
