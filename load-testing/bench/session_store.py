"""The Redis that session pins are measured with: started as the local stack's, its keys counted."""

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from bench.processes import DidNotStart, free_port, running


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[int]:
    """A Redis that keeps nothing on disk, until the block ends; gives its port.

    Raises:
        DidNotStart: it is not installed, ended, or did not answer within 30 s.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise DidNotStart("redis-server is missing: `make up` installs it, or apt-get install redis-server")
    port = free_port()
    command = [
        *(program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
        *("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru", "--dir", str(folder)),
    ]
    with running(command, folder / "redis.log", lambda: _asked(port, "PING") == "+PONG"):
        yield port


def keys(port: int) -> int:
    """How many keys the Redis holds; 0 when it does not answer."""
    return int(_asked(port, "DBSIZE").removeprefix(":") or 0)


def _asked(port: int, command: str) -> str:
    """A command's one-line answer, empty when there is none within 1 s."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(256).decode().strip()
    return ""
