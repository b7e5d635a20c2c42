"""HTTP/2 frames that cost a server more than the client, with a valid key."""

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator

import hpack

from harness.clients.http2 import post_headers
from harness.servers.edges import CHAT
from harness.stacks.attacked import KEYS

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0x0, 0x1, 0x2, 0x3, 0x4
PING, WINDOW_UPDATE, CONTINUATION = 0x6, 0x8, 0x9
END_HEADERS = 0x4
AT_ONCE = 8.0
"""Longest time until the edge has closed the connection; less than an idle connection has (10 s)."""
WHEN_IDLE = 20.0
"""The edge refuses the request and closes the connection when it is idle."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBBI", len(payload), kind, flags, stream)[1:] + payload


def head(**more: str) -> bytes:
    headers = [*post_headers(CHAT, KEYS["fast"][0]), *more.items()]
    return hpack.Encoder().encode(headers, huffman=False)


def reset_streams() -> Iterator[bytes]:
    """Begin requests and reset each at once: CVE-2023-44487."""
    block = head()
    for number in range(1, 40_000, 2):
        yield frame(HEADERS, END_HEADERS, number, block) + frame(RST_STREAM, 0, number, b"\0\0\0\x08")


def endless_head() -> Iterator[bytes]:
    """Continue the headers of one request without an end: CVE-2024-27316."""
    yield frame(HEADERS, 0, 1, head())
    for number in range(2_000):
        text = hpack.Encoder().encode([(f"x-{number}", "a" * 15_000)], huffman=False)
        yield frame(CONTINUATION, 0, 1, text)


def repeated_headers() -> Iterator[bytes]:
    """Store one long header in the table of HPACK, then name it in one byte each: 256 MiB when decoded."""
    encoder = hpack.Encoder()
    block = encoder.encode([*post_headers(CHAT, KEYS["fast"][0]), ("x-long", "a" * 4000)], huffman=False)
    again = encoder.encode([("x-long", "a" * 4000)], huffman=False)
    assert len(again) == 1, "the header is in the table"
    yield frame(HEADERS, 0, 1, block)
    for _ in range(4):
        yield frame(CONTINUATION, 0, 1, again * 16_000)
    yield frame(CONTINUATION, END_HEADERS, 1)


def settings() -> Iterator[bytes]:
    """Change settings without reading the acknowledgements."""
    for _ in range(2_000):
        yield frame(SETTINGS, 0, 0) * 100


def pings() -> Iterator[bytes]:
    """Send pings without reading the answers."""
    for _ in range(2_000):
        yield frame(PING, 0, 0, b"12345678") * 100


def empty_data() -> Iterator[bytes]:
    """Send frames of a body that hold nothing."""
    yield frame(HEADERS, END_HEADERS, 1, head())
    for _ in range(2_000):
        yield frame(DATA, 0, 1) * 100


def priorities() -> Iterator[bytes]:
    """Change the priority of a stream that does not exist."""
    for _ in range(2_000):
        yield frame(PRIORITY, 0, 1, b"\0\0\0\0\x10") * 100


def window_updates() -> Iterator[bytes]:
    """Enlarge the connection's window by one byte at a time."""
    for _ in range(2_000):
        yield frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 100


def window_overflow() -> Iterator[bytes]:
    """Enlarge the connection's window beyond its largest size."""
    for _ in range(2):
        yield frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")


def closed(client: socket.socket, frames: Iterator[bytes], seconds: float) -> bool:
    """Send the frames and return whether the edge closed the connection within ``seconds``."""
    until = time.monotonic() + seconds
    client.settimeout(1.0)
    try:
        for data in frames:
            rest = memoryview(data)
            while rest and time.monotonic() < until:
                try:
                    rest = rest[client.send(rest) :]
                except TimeoutError:
                    continue
        while time.monotonic() < until:
            try:
                if not client.recv(65536):
                    return True
            except TimeoutError:
                continue
    except (ConnectionError, ssl.SSLError):
        return True
    return False


FLOODS: dict[str, tuple[Callable[[], Iterator[bytes]], float]] = {
    "reset_streams": (reset_streams, AT_ONCE),
    "endless_head": (endless_head, AT_ONCE),
    "repeated_headers": (repeated_headers, WHEN_IDLE),
    "settings": (settings, AT_ONCE),
    "pings": (pings, AT_ONCE),
    "empty_data": (empty_data, AT_ONCE),
    "priorities": (priorities, AT_ONCE),
    "window_updates": (window_updates, AT_ONCE),
    "window_overflow": (window_overflow, AT_ONCE),
}
"""Frames by name, and the longest time until the edge has closed their connection."""
