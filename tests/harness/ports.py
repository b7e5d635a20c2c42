"""Free loopback ports. Each test process draws from a separate slice, so parallel test runs never share a port.

A port is only free until a process binds it, so callers bind at once.
"""

import fcntl
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Below the kernel's ephemeral ports: a starting server takes a second to bind, and an outgoing connection
# could take an ephemeral port meanwhile.
FIRST, LAST = 10240, 32767
SLICES = 8


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nothing listens on.

    A process gets a port again only after it has drawn all others of its slice.
    """
    while True:
        port = next(_draws())
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@cache
def _draws() -> Iterator[int]:
    ports = list(_slice())
    random.SystemRandom().shuffle(ports)
    return itertools.cycle(ports)


def _slice() -> range:
    """Lock a slice until this process ends; return its ports, or every port if all slices are locked."""
    size = (LAST + 1 - FIRST) // SLICES
    for number in range(SLICES):
        path = Path(tempfile.gettempdir(), f"llm-platform-test-ports-{number}.lock")
        try:
            lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:
            continue  # another user's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        return range(FIRST + number * size, FIRST + (number + 1) * size)
    return range(FIRST, LAST + 1)
