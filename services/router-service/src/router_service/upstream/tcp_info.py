"""Reads the kernel's counters of a TCP connection: `struct tcp_info` of linux/tcp.h. Linux only."""

import socket
import struct
from asyncio import BaseTransport
from typing import NamedTuple

_FIELDS = struct.Struct("=68xI28xI48xII64xI")
"""tcpi_rtt, tcpi_total_retrans, tcpi_data_segs_in, tcpi_data_segs_out, tcpi_rcv_ooopack (Linux 5.4)."""


class TcpInfo(NamedTuple):
    """Counters of one connection since it opened.

    ``segments`` counts data segments in both directions. ``repaired`` counts those that were retransmitted, or received
    after a gap. ``round_trip_seconds`` is smoothed; right after the handshake it is the handshake's round trip.
    """

    round_trip_seconds: float
    segments: int
    repaired: int


def tcp_info(transport: BaseTransport) -> TcpInfo | None:
    """Query the kernel with one system call; None if the system has no TCP_INFO or the connection is closed."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        raw = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FIELDS.size)
        rtt_us, resent, received, sent, behind_a_gap = _FIELDS.unpack(raw)
    except (OSError, struct.error, AttributeError):
        return None
    return TcpInfo(rtt_us / 1e6, received + sent, resent + behind_a_gap)
