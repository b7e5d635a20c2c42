"""The Redis for measurements with session pins, started as in the local stack."""

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from load_testing.bench.processes import DidNotStart, free_port, running


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[int]:
    """Run a Redis without persistence until the block ends; yields its port.

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
    """Return the number of keys in the Redis; 0 if it does not answer."""
    return int(_asked(port, "DBSIZE").removeprefix(":") or 0)


def _asked(port: int, command: str) -> str:
    """Return a command's one-line answer, or "" if there is none within 1 s."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(256).decode().strip()
    return ""
