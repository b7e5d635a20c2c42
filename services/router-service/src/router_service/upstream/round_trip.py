"""How far away a backend is: the kernel's own measure of one TCP handshake.

A connection of its own, closed at once. The kernel stamps both of the handshake's packets, so neither a busy event loop
here nor a busy engine there is in the figure, and the other side never delays the answer to a SYN, as it may delay
other acknowledgements by 40 ms.
"""

import asyncio
import contextlib
import socket
import struct

from router_service.upstream.address import Address

_RTT_OFFSET = 68
"""Of `tcpi_rtt` (microseconds) in `struct tcp_info` of linux/tcp.h."""


async def round_trip_seconds(address: Address, timeout_seconds: float) -> float | None:
    """Open and close a connection to ``address``. None: it did not open, or this system does not measure."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        async with asyncio.timeout(timeout_seconds):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except (OSError, TimeoutError):
        return None
    try:
        info = writer.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _RTT_OFFSET + 4
        )
        (microseconds,) = struct.unpack_from("=I", info, _RTT_OFFSET)
    except (OSError, struct.error):
        return None
    finally:
        with contextlib.suppress(OSError):
            writer.close()
    return microseconds / 1e6 if microseconds else None
