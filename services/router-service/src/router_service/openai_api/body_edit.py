"""Changes single fields of JSON bodies and keeps every other byte. Does not choose values."""

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

import orjson

_MAX_CANDIDATES = 8
"""A body that names a field more often than this is serialized again instead of searched."""

_MAX_SEARCHED_BYTES = 64 * 1024
"""A larger body that names a field twice is serialized again: each candidate costs a parse of the whole body."""

_MAX_OBJECT_BYTES = 8 * 1024
_METRICS = b'"metrics"'


def with_field(body: bytes, parsed: Mapping[str, Any], name: str, value: Any) -> bytes:
    """Return the object ``body``, parsed as ``parsed``, with the top-level field ``name`` set to ``value``.

    A missing field is appended. A text is replaced in place. The body is serialized again only if the field is not a
    plain text, or if escapes in its name hide it.
    """
    written = orjson.dumps(value)
    if name not in parsed:
        end = body.rindex(b"}")
        return b"%b%b%b:%b%b" % (body[:end], b"," if parsed else b"", orjson.dumps(name), written, body[end:])
    if isinstance(parsed[name], str):
        found = _texts_of(body, name, parsed[name])
        for start, end in reversed(found):  # If a field is repeated, the last one is effective.
            changed = body[:start] + written + body[end:]
            if orjson.loads(changed).get(name) == value:
                return changed
    return orjson.dumps({**parsed, name: value})


def _texts_of(body: bytes, name: str, text: str) -> list[tuple[int, int]]:
    """Return where ``body`` may have ``name`` with a text as its value, as slices; empty if the search is too long."""
    large = len(body) > _MAX_SEARCHED_BYTES
    most = 1 if large else _MAX_CANDIDATES
    if not large:
        pattern = rb'"%b"\s*:\s*("(?:[^"\\]|\\.)*")' % re.escape(name.encode())
        found = [match.span(1) for match in islice(re.finditer(pattern, body), most + 1)]
    else:  # A pattern takes tens of nanoseconds for each byte of a text, a comparison less than one.
        written = orjson.dumps(text)
        names = islice(re.finditer(rb'"%b"\s*:\s*' % re.escape(name.encode()), body), most + 1)
        ends = [match.end() for match in names]
        found = [(end, end + len(written)) for end in ends if body.startswith(written, end)]
    return found if len(found) <= most else []


def renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    """Replace the value of every ``model`` in whole events or a body. ``old`` and ``new`` are JSON texts.

    Quotes inside a JSON text are escaped, so text written by a model is never changed.
    """
    for gap in (b"", b" "):
        data = data.replace(b'"model":%b%b' % (gap, old), b'"model":%b%b' % (gap, new))
    return data


def without_metrics(data: bytes) -> bytes:
    """Return whole events or a body without the engine's ``metrics`` objects, each with the comma before it."""
    end = len(data)
    while (at := data.rfind(_METRICS, 0, end)) >= 0:
        end = at
        stop = _object_end(data, at + len(_METRICS))
        if stop is None:
            continue
        start = at
        while start > 0 and data[start - 1 : start].isspace():
            start -= 1
        if data[start - 1 : start] == b",":
            start -= 1
        elif data[stop : stop + 1] == b",":
            stop += 1
        data = data[:start] + data[stop:]
    return data


def _object_end(data: bytes, after_name: int) -> int | None:
    """Return the end of the object that is the value of a name; None if it is not an object or not complete."""
    window = data[after_name : after_name + _MAX_OBJECT_BYTES]
    head = re.match(rb"\s*:\s*\{", window)
    if head is None:
        return None
    stop = head.end()
    while (stop := window.find(b"}", stop) + 1) > 0:
        if window.count(b"{", 0, stop) == window.count(b"}", 0, stop):
            return after_name + stop
    return None


class PieceEditor:
    """Edits a body that arrives in pieces: renames its model and removes ``metrics``.

    Holds back the end of each piece, where an object may be cut: at most twice 8 KiB.
    """

    __slots__ = ("_held", "_hide_metrics", "_rename")

    def __init__(self, rename: tuple[bytes, bytes] | None, *, hide_metrics: bool) -> None:
        self._rename = rename
        self._hide_metrics = hide_metrics
        self._held = b""

    def whole(self, data: bytes) -> bytes:
        """Edit whole events, or a whole body."""
        if self._rename is not None:
            data = renamed(data, *self._rename)
        if self._hide_metrics and _METRICS in data:
            data = without_metrics(data)
        return data

    def feed(self, data: bytes) -> bytes:
        """Add the next piece; return the bytes that can be sent."""
        data = self.whole(self._held + data)
        self._held = data[-_MAX_OBJECT_BYTES:]
        return data[:-_MAX_OBJECT_BYTES]

    def rest(self) -> bytes:
        """Return the bytes held back at the end of the body."""
        held, self._held = self._held, b""
        return held
