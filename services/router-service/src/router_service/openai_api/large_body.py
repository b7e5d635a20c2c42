"""Estimates what parsing a large JSON body costs before it is parsed, in short pieces of work.

A parser cannot be interrupted: 10 MiB of numbers or keys hold it for 0.1 to 0.7 s, and every other request waits. The
estimate counts values outside of texts. It trusts no body: whatever is wrong in it, the parser refuses.
"""

from collections.abc import Iterator

LARGE_BYTES = 256 * 1024
"""A smaller body costs at most about 20 ms whatever it contains, and is not searched."""

PIECE_BYTES = 128 * 1024
"""Maximum bytes searched between two yields."""

MAX_COST = 1_150_000
"""Maximum estimate, in units of about 18 ns of orjson 3: 20 ms. A prompt of 800,000 token ids is below it."""

BYTES_PER_UNIT = 20
"""Any byte costs a twentieth of a unit."""

PER_VALUE, PER_QUOTE, PER_KEY, PER_CONTAINER = 1, 1, 20, 10
"""A value costs 1 unit, a text 2 more, a key up to 20 (if the parser has not met it before), a container 10."""


def parse_cost(body: bytes) -> Iterator[int]:
    """Yield the cost of parsing ``body`` so far, after each piece of at most :data:`PIECE_BYTES` bytes."""
    cost = 0
    inside = False
    carried = b""
    for at in range(0, len(body), PIECE_BYTES):
        piece = carried + body[at : at + PIECE_BYTES]
        carried = b"\\" if (len(piece) - len(piece.rstrip(b"\\"))) % 2 else b""
        if carried:
            piece = piece[:-1]  # The next piece has the byte that it escapes.
        cost += len(piece) // BYTES_PER_UNIT
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        quotes = piece.count(b'"')
        outside = piece if not inside else b""
        if quotes:
            outside = b"".join(piece.split(b'"')[inside::2])
            inside ^= bool(quotes % 2)
        cost += (
            quotes * PER_QUOTE
            + outside.count(b",") * PER_VALUE
            + outside.count(b":") * PER_KEY
            + (outside.count(b"[") + outside.count(b"{")) * PER_CONTAINER
        )
        yield cost
