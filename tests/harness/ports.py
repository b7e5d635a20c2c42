"""Free loopback ports. A port is only free until somebody binds it, so callers start at once."""

import socket


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nothing listens on.

    The kernel hands out ephemeral ports in a random order, so two tests that run side by side
    practically never get the same one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
