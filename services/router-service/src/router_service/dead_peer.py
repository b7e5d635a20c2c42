"""Configures the kernel to detect a TCP peer whose host or link failed without closing the connection.

Must not close or read a connection: a dead connection fails like any other broken one.
"""

import socket
from typing import Protocol

IDLE_SECONDS = 4
"""Seconds of silence after which the kernel probes the peer."""

INTERVAL_SECONDS = 3

LOST_SECONDS = 10
"""Seconds without an acknowledgement, of data or of a probe, after which the connection breaks."""

_OPTIONS = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", IDLE_SECONDS),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", INTERVAL_SECONDS),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
)
"""The number of probes is used only while TCP_USER_TIMEOUT is unset."""


class Socket(Protocol):
    """A socket, or a transport's view of its socket."""

    def setsockopt(self, level: int, optname: int, value: int, /) -> None: ...


def detect_dead_peer(sock: Socket) -> None:
    """Break the connection at most 13 s after its peer's last packet. Linux only; a no-op elsewhere."""
    for level, name, value in _OPTIONS:
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(level, option, value)
    expect_reading(sock, True)


def expect_reading(sock: Socket, reads: bool) -> None:
    """Set whether a peer that acknowledges everything but reads nothing counts as dead.

    TCP_USER_TIMEOUT also ends a connection whose peer keeps its window closed, such as a client that reads slowly.
    """
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, LOST_SECONDS * 1000 if reads else 0)
