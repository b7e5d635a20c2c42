"""The addresses that a server listens on. Must not import anything but the standard library."""


def host_of_both_families(host: str) -> str:
    """Return the host to give to asyncio's servers, so that ``::`` accepts IPv4 too.

    asyncio and uvloop restrict a socket on ``::`` to IPv6. The empty host opens one socket for each family that the
    machine has.
    """
    return "" if host == "::" else host
