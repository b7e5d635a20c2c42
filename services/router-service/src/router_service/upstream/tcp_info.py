"""What the kernel knows of a TCP connection: `struct tcp_info` of linux/tcp.h. Elsewhere nothing is known."""

import socket
import struct
from asyncio import BaseTransport
from typing import NamedTuple

_FIELDS = struct.Struct("=68xI28xI48xII64xI")
"""tcpi_rtt, tcpi_total_retrans, tcpi_data_segs_in, tcpi_data_segs_out, tcpi_rcv_ooopack (Linux 5.4)."""


class TcpInfo(NamedTuple):
    """Of one connection, since it opened.

    ``segments`` with data went either way; ``repaired`` of them were sent again, or were received behind a gap that
    the other side had to fill. ``round_trip_seconds`` is smoothed; right after a handshake it is that of the handshake.
    """

    round_trip_seconds: float
    segments: int
    repaired: int


def tcp_info(transport: BaseTransport) -> TcpInfo | None:
    """Ask the kernel (one system call). None: this system does not say, or the connection is gone."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        raw = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FIELDS.size)
        rtt_us, resent, received, sent, behind_a_gap = _FIELDS.unpack(raw)
    except (OSError, struct.error, AttributeError):
        return None
    return TcpInfo(rtt_us / 1e6, received + sent, resent + behind_a_gap)
