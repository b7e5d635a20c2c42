"""Splits a relayed byte stream at event boundaries and keeps its tail. Parses nothing while bytes flow.

Events pass unchanged as soon as they are complete. Byte tests find what the router needs: an engine's in-band error,
a usage event that the client did not request, comments. JSON strings escape their quotes, so text written by a model
cannot match. Must not know the reader or the writer.
"""

import re

import orjson

from router_service.openai_api.body_edit import PieceEditor
from router_service.openai_api.errors import ErrorForm

MAX_HELD_BYTES = 256 * 1024
"""An event longer than this is forwarded in pieces, which bounds the memory per stream."""

MAX_KEPT_BYTES = 4 * 1024 * 1024
"""A response longer than this is no longer stored, and so cannot be continued elsewhere."""

_NAME_BYTES = 64
"""Number of bytes kept of an event that is forwarded in pieces; the event's type is at its beginning."""

_ERROR = b'data: {"error"'
_ERROR_TIGHT = b'data:{"error"'
_NAMED_ERRORS = (
    *(b"event: error\n", b"event: error\r", b"event:error\n", b"event:error\r"),
    *(b'data: {"type":"error"', b'data: {"type": "error"', _ERROR, _ERROR_TIGHT),
)
"""Beginnings of an error event in the APIs whose events have names."""
_NO_CHOICES = b'"choices":[]'
_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NOTHING_SAID = re.compile(rb"(?:(?::[^\r\n]*)?[\r\n])*\Z")
"""Comments and blank lines."""


class EventStream:
    """The event stream of one response.

    ``last`` and ``before_last`` are the latest blocks of whole events that were returned or dropped; usage and the
    terminal event are found in them. ``progressed`` is False if the last :meth:`feed` received only comments, blank
    lines or an incomplete event. ``oversized`` is True until the end of an event that is forwarded in pieces.
    ``error`` is the in-band error event, if one arrived: neither it nor any later byte is returned. ``kept`` stores
    every returned block while it is a list (see :meth:`keep`).
    """

    __slots__ = ("_drop_usage", "_editor", "_held", "_name", "_named", "before_last", "error", "kept", "kept_bytes",
                 "last", "oversized", "progressed")  # fmt: skip

    def __init__(
        self, drop_usage: bool, form: ErrorForm = ErrorForm.OPENAI, editor: PieceEditor | None = None
    ) -> None:
        self._editor = editor
        self._drop_usage = drop_usage
        self._named = form is not ErrorForm.OPENAI
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
        """Store every block from this call on, so that the response can be continued elsewhere."""
        self.kept = []

    def feed(self, data: bytes) -> bytes:
        """Add the next bytes; return the complete events, including bytes held before."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith(b"\n\n") or self.oversized:
            data = self._cut(data)
            if not data:
                self.progressed = self.oversized
                return b""
        if (_ERROR in data or _ERROR_TIGHT in data) if not self._named else b"error" in data:
            data = self._stop_at_error(data)
            if not data:
                self.progressed = True
                return b""
        # A comment begins with byte 58. Line ends are lower, and the names of fields are higher.
        self.progressed = data[0] > 58 or _NOTHING_SAID.match(data) is None
        if self.progressed:
            self.before_last = self.last
            self.last = data
        if self._editor is not None:
            data = self._editor.whole(data)
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
        """Return the part of an event without closing blank line that can be sent at the end of the stream.

        That is the terminal event, or any event if the path has none. Other events were cut short, and bytes written
        after them would become part of them.
        """
        held, self._held = self._held, b""
        if not held:
            return b""
        if self._is_error(held):
            self.error = held
            return b""
        if terminals and not (_has_any(held, terminals) and _is_whole(held)):
            return b""
        self.before_last = self.last
        self.last = held
        return held

    def ends_with_any(self, terminals: tuple[bytes, ...]) -> bool:
        """Return True if the last events contain one of ``terminals``, complete."""
        return not self.oversized and (_has_any(self.last, terminals) or _has_any(self._name, terminals))

    def tail(self) -> bytes:
        """Return the last two blocks, which contain usage and the engine's own timing."""
        return self.before_last + self.last

    def _cut(self, data: bytes) -> bytes:
        """Hold back the incomplete event at the end of ``data``; return the bytes before it."""
        end = 0
        # Search backwards and only in the new part: an event is rarely over a few kB.
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
            end = len(data.rstrip(b"\r\n"))  # A line end may be half of the blank line that closes the event.
        self._held = data[end:]
        return data[:end]

    def _stop_at_error(self, data: bytes) -> bytes:
        """Split ``data`` before its first event that is an error."""
        start = 0
        for event in _events(data):
            if self._is_error(event):
                self.error = event
                return data[:start]
            start += len(event)
        return data

    def _is_error(self, event: bytes) -> bool:
        """Return whether a line of the event begins like an error. A JSON text contains no line end."""
        marks = _NAMED_ERRORS if self._named else (_ERROR, _ERROR_TIGHT)
        if event.startswith(marks):
            return True
        return any(b"\n" + mark in event or b"\r" + mark in event for mark in marks)

    def _without_usage(self, data: bytes) -> bytes:
        return b"".join(event for event in _events(data) if _NO_CHOICES not in event)


def _has_any(data: bytes, terminals: tuple[bytes, ...]) -> bool:
    for terminal in terminals:
        at = data.find(terminal)
        while at >= 0:
            # The name of a field is at the beginning of a line; a model may write the same words in its text.
            if at == 0 or terminal[0] == 34 or data[at - 1] in b"\r\n":
                return True
            at = data.find(terminal, at + 1)
    return False


def _is_whole(event: bytes) -> bool:
    """Return whether a terminal event is complete except for its blank line."""
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
    """Split complete events, each with its closing blank line."""
    events = []
    start = 0
    for boundary in _BOUNDARY.finditer(data):
        events.append(data[start : boundary.end()])
        start = boundary.end()
    if start < len(data):
        events.append(data[start:])
    return events


def split_events(data: bytes) -> list[bytes]:
    """Return the events in ``data``, each with its closing blank line; the last may be incomplete."""
    return _events(data)
