"""Reads the server-sent events of an engine's APIs. Knows no HTTP library and no meaning of an event.

The router has its own reader, because it forwards the bytes unchanged; so has the load generator, because it times each
event.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

DONE = "[DONE]"
"""The data of the last event of a chat or completion."""


class EventReader:
    """Splits a stream of bytes into the data of its events. Each event has its data in one line.

    Only a line feed ends a line. ``str.splitlines``, and so the line iterators of HTTP libraries, would also split a
    text at U+0085, U+2028 and U+2029, which JSON may contain as they are.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[str]:
        """Take the next bytes and return the data of the lines that they complete."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        found = (line[5:].strip() for line in lines if line.startswith(b"data:"))
        return [data.decode(errors="replace") for data in found if data]


def events(pieces: Iterable[bytes]) -> Iterator[str]:
    """Yield the data of each event in the pieces of a body."""
    reader = EventReader()
    for piece in pieces:
        yield from reader.feed(piece)


def chunks(body: bytes) -> list[dict[str, Any]]:
    """Return the parsed events of a whole body, without the last one, ``[DONE]``.

    Raises:
        ValueError: an event is not JSON.
    """
    return [json.loads(event) for event in events([body]) if event != DONE]
