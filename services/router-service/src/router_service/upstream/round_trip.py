"""How far away a backend is: the kernel's own measure of one TCP handshake.

A connection of its own, closed at once. The kernel stamps both of the handshake's packets, so neither a busy event loop
here nor a busy engine there is in the figure, and the other side never delays the answer to a SYN, as it may delay
other acknowledgements by 40 ms.
"""

import asyncio
import contextlib

from router_service.upstream.address import Address
from router_service.upstream.tcp_info import tcp_info


async def round_trip_seconds(address: Address, timeout_seconds: float) -> float | None:
    """Open and close a connection to ``address``. None: it did not open, or this system does not measure."""
    try:
        async with asyncio.timeout(timeout_seconds):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except (OSError, TimeoutError):
        return None
    info = tcp_info(writer.transport)
    with contextlib.suppress(OSError):
        writer.close()
    return info.round_trip_seconds or None if info is not None else None
