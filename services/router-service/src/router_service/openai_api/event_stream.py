"""Cuts a relayed byte stream at event boundaries and keeps its tail; parses nothing while it flows.

Whole events pass through unchanged the moment they are whole. What a router must see in them is found
by byte tests: an engine's in-band error, the usage event nobody asked for, comments. JSON strings
escape their quotes, so none of the tests can be fooled by text a model wrote. It refuses to know who
reads or writes.
"""

import re

import orjson

MAX_HELD_BYTES = 256 * 1024
"""An event longer than this is passed on in pieces: memory per stream stays bounded."""

MAX_KEPT_BYTES = 4 * 1024 * 1024
"""An answer longer than this is no longer kept, and so cannot be continued elsewhere."""

_NAME_BYTES = 64
"""How much of an event that is passed on in pieces is remembered: what kind of event it is stands at its beginning."""

_ERROR = b'data: {"error"'
_ERROR_TIGHT = b'data:{"error"'
_NO_CHOICES = b'"choices":[]'
_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NOTHING_SAID = re.compile(rb"(?:(?::[^\r\n]*)?[\r\n])*\Z")
"""Comments and blank lines."""


class EventStream:
    """One answer's event stream.

    ``last`` and ``before_last`` are the latest blocks of whole events given out (or dropped): the
    usage and the terminal event are found in them. ``progressed`` is False when the last :meth:`feed`
    brought nothing but comments, blank lines or an incomplete event. ``oversized`` is True while an
    event that is passed on in pieces has not come to its end. ``error`` is the in-band error event, when
    one came: neither it nor anything after it is given out. ``kept`` holds every block given out while
    it is a list (see :meth:`keep`).
    """

    __slots__ = ("_drop_usage", "_held", "_name", "before_last", "error", "kept", "kept_bytes", "last",
                 "oversized", "progressed")  # fmt: skip

    def __init__(self, drop_usage: bool) -> None:
        self._drop_usage = drop_usage
        self._held = b""
        self._name = b""
        self.oversized = False
        self.last = b""
        self.before_last = b""
        self.progressed = False
        self.error: bytes | None = None
        self.kept: list[bytes] | None = None
        self.kept_bytes = 0

    def keep(self) -> None:
        """Keep every block from now on, so that the answer can be continued elsewhere."""
        self.kept = []

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, give the whole events among them (and what was held before)."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith(b"\n\n") or self.oversized:
            data = self._cut(data)
            if not data:
                self.progressed = self.oversized
                return b""
        if _ERROR in data or _ERROR_TIGHT in data:
            data = self._stop_at_error(data)
            if not data:
                self.progressed = True
                return b""
        # A comment begins with byte 58, a line end is lower, a field's name is higher.
        self.progressed = data[0] > 58 or _NOTHING_SAID.match(data) is None
        if self.progressed:
            self.before_last = self.last
            self.last = data
        if self._drop_usage and _NO_CHOICES in data:
            data = self._without_usage(data)
        if self.kept is not None:
            self.kept.append(data)
            self.kept_bytes += len(data)
            if self.kept_bytes > MAX_KEPT_BYTES:
                self.kept.clear()
                self.kept = None
        return data

    def rest(self, terminals: tuple[bytes, ...]) -> bytes:
        """What may be given out of an event whose closing blank line never came when the stream ended.

        That is the terminal event, or anything where the path has none. Another one was cut short: what
        is written behind it would become a part of it.
        """
        held, self._held = self._held, b""
        if _ERROR in held[:32] or _ERROR_TIGHT in held[:32]:
            self.error = held
            return b""
        if terminals and not (_has_any(held, terminals) and _is_whole(held)):
            return b""
        if held:
            self.before_last = self.last
            self.last = held
        return held

    def ends_with_any(self, terminals: tuple[bytes, ...]) -> bool:
        """True when one of ``terminals`` is in the last events seen, and whole."""
        return not self.oversized and (_has_any(self.last, terminals) or _has_any(self._name, terminals))

    def tail(self) -> bytes:
        """The last two blocks: where usage and the engine's own timing are."""
        return self.before_last + self.last

    def _cut(self, data: bytes) -> bytes:
        """Hold back the incomplete event at the end of ``data``; give what is before it."""
        end = 0
        # Only the part that can be new is searched from behind: an event is rarely over a few kB.
        cut = max(data.rfind(b"\n\n"), data.rfind(b"\r\r"))
        if cut >= 0:
            end = cut + 2
        cut = data.rfind(b"\r\n\r\n")
        if cut >= 0:
            end = max(end, cut + 4)
        continues = self.oversized and not end
        self.oversized = continues or len(data) - end > MAX_HELD_BYTES
        if self.oversized:
            if not continues:
                self._name = data[end : end + _NAME_BYTES]
            end = len(data.rstrip(b"\r\n"))  # a line end may be half of the blank line that closes the event
        self._held = data[end:]
        return data[:end]

    def _stop_at_error(self, data: bytes) -> bytes:
        """Split ``data`` before its first event that is an error."""
        start = 0
        for event in _events(data):
            if event.startswith((_ERROR, _ERROR_TIGHT)) or b"\n" + _ERROR in event:
                self.error = event
                return data[:start]
            start += len(event)
        return data

    def _without_usage(self, data: bytes) -> bytes:
        return b"".join(event for event in _events(data) if _NO_CHOICES not in event)


def _has_any(data: bytes, terminals: tuple[bytes, ...]) -> bool:
    for terminal in terminals:
        at = data.find(terminal)
        while at >= 0:
            # A field's name stands at the beginning of a line; a model may write the same words in its text.
            if at == 0 or terminal[0] == 34 or data[at - 1] in b"\r\n":
                return True
            at = data.find(terminal, at + 1)
    return False


def _is_whole(event: bytes) -> bool:
    """Whether nothing but its blank line is missing of a terminal event."""
    line = event.splitlines()[-1]
    if not line.startswith(b"data:"):
        return False
    value = line[5:].strip()
    if value == b"[DONE]":
        return True
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True


def _events(data: bytes) -> list[bytes]:
    """Split whole events, each with its closing blank line."""
    events = []
    start = 0
    for boundary in _BOUNDARY.finditer(data):
        events.append(data[start : boundary.end()])
        start = boundary.end()
    if start < len(data):
        events.append(data[start:])
    return events


def split_events(data: bytes) -> list[bytes]:
    """The events in ``data``, each with its closing blank line; the last may be incomplete."""
    return _events(data)
