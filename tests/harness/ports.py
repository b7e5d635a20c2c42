"""Free loopback ports. A port is only free until somebody binds it, so callers start at once."""

import random
import socket

# Below the ports the kernel gives to outgoing connections: a server that starts, or starts again, takes a
# second to bind, and a busy test opens many connections meanwhile.
FIRST, LAST = 10240, 32767


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nothing listens on.

    It is drawn at random, so two tests that run side by side practically never get the same one.
    """
    draw = random.SystemRandom()
    while True:
        port = draw.randint(FIRST, LAST)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
