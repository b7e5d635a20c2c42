"""Free loopback ports. Free TCP ports. A port is only free until a process binds it, so callers bind at once."""

import random
import socket

# Below the kernel's ephemeral ports: a starting server takes a second to bind, and an outgoing connection
# could take an ephemeral port meanwhile.
FIRST, LAST = 10240, 32767


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nothing listens on.

    It is drawn at random, so that parallel tests rarely get the same port.
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
