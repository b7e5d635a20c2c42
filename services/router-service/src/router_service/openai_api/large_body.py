"""Estimates what parsing a large JSON body costs before it is parsed, in short pieces of work.

A parser cannot be interrupted: 10 MiB of numbers or keys hold it for 0.1 to 0.7 s, and every other request waits. The
estimate counts values outside of texts, and the characters of texts that Python stores with 4 bytes each. It trusts no
body: whatever is wrong in it, the parser refuses.
"""

import re
from collections.abc import Iterator

LARGE_BYTES = 256 * 1024
"""A smaller body costs at most about 20 ms whatever it contains, and is not searched."""

PIECE_BYTES = 128 * 1024
"""Maximum bytes searched between two yields."""

MAX_COST = 1_150_000
"""Maximum estimate, in units of about 18 ns of orjson 3: 20 ms. A prompt of 500,000 token ids is below it."""

BYTES_PER_UNIT = 20
"""Any byte costs a twentieth of a unit."""

PER_VALUE, PER_QUOTE, PER_KEY, PER_CONTAINER = 2, 1, 20, 10
"""A value costs 2 units, a text 2 more, a key up to 20 (if the parser has not met it before), a container 10."""

ESCAPES_PER_UNIT = 5
"""An escape costs a fifth of a unit: it is slow to read, and again to write. A third of a text may be escapes."""

WIDE_CHARS_PER_UNIT = 6
"""A character of a text with a wide character (an emoji) costs a sixth of a unit more: Python stores all characters of
such a text with 4 bytes, and each later step that copies the text pays again. A text of 5 million characters passes.
"""

_NARROW = bytes(byte for byte in range(256) if not 0xF0 <= byte <= 0xF4)
"""The bytes that do not begin a wide character in UTF-8."""

_WIDE_ESCAPE = re.compile(rb"\\u[dD][89abAB]")
_CUT_ESCAPE_BYTES = 3
"""Maximum bytes of an escape that were read without recognizing it."""


class _Texts:
    """Counts the characters of texts with a wide character, over the pieces of a body."""

    def __init__(self) -> None:
        self._chars = 0  # of the text that is not complete
        self._wide = False
        self._before = b""

    def cost(self, parts: list[bytes], *, inside: bool) -> int:
        """Return the cost of a piece, split at its quotes. ``inside``: it begins inside a text."""
        chars = 0
        if inside:
            chars += self._add(parts[0])
        if len(parts) > 1:
            between = b"".join(parts[1:-1])  # Whole texts, counted as one.
            if _is_wide(between):
                chars += _length(between)
            self._chars, self._wide, self._before = 0, False, b""
            if inside == bool(len(parts) % 2):  # The piece ends inside a text.
                chars += self._add(parts[-1])
        return chars // WIDE_CHARS_PER_UNIT

    def _add(self, part: bytes) -> int:
        """Add a part of the incomplete text; return the characters that now count as wide."""
        length = _length(part)
        if self._wide:
            return length
        self._chars += length
        self._wide = _is_wide(self._before + part)
        self._before = (self._before + part[-_CUT_ESCAPE_BYTES:])[-_CUT_ESCAPE_BYTES:]
        return self._chars if self._wide else 0


def _is_wide(text: bytes) -> bool:
    if not text.isascii() and text.translate(None, _NARROW):
        return True
    return b"\\u" in text and _WIDE_ESCAPE.search(text) is not None


def _length(text: bytes) -> int:
    return len(text) if text.isascii() else len(text.decode(errors="ignore"))


def parse_cost(body: bytes) -> Iterator[int]:
    """Yield the cost of parsing ``body`` so far, after each piece of at most :data:`PIECE_BYTES` bytes."""
    cost = 0
    inside = False
    carried = b""
    texts = _Texts()
    for at in range(0, len(body), PIECE_BYTES):
        piece = carried + body[at : at + PIECE_BYTES]
        carried = b"\\" if (len(piece) - len(piece.rstrip(b"\\"))) % 2 else b""
        if carried:
            piece = piece[:-1]  # The next piece has the byte that it escapes.
        cost += len(piece) // BYTES_PER_UNIT
        if b"\\" in piece:
            cost += piece.count(b"\\") // ESCAPES_PER_UNIT
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        quotes = len(parts) - 1
        outside = b"".join(parts[inside::2])
        cost += (
            texts.cost(parts, inside=inside)
            + quotes * PER_QUOTE
            + outside.count(b",") * PER_VALUE
            + outside.count(b":") * PER_KEY
            + (outside.count(b"[") + outside.count(b"{")) * PER_CONTAINER
        )
        inside ^= bool(quotes % 2)
        yield cost
