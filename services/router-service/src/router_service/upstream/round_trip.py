"""Measures the network round trip to a backend by the kernel's timing of one TCP handshake.

It opens a separate connection and closes it at once. The kernel timestamps the packets of the handshake, so a busy event
loop or engine does not affect the result. A peer acknowledges a SYN immediately, while it may delay other
acknowledgements by 40 ms.
"""

import asyncio

from router_service.upstream.address import Address
from router_service.upstream.tcp_info import tcp_info


async def round_trip_seconds(address: Address, timeout_seconds: float) -> float | None:
    """Return the round trip time to ``address``, None if it is unreachable or the system cannot measure it."""
    try:
        async with asyncio.timeout(timeout_seconds):
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(asyncio.Protocol, address.host, address.port)
    except (OSError, TimeoutError):
        return None
    info = tcp_info(transport)
    transport.close()
    return info.round_trip_seconds or None if info is not None else None
