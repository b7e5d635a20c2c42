"""A tiny HTTP server for one test: answers each request with given bytes, then closes the connection."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.servers.accepting import Acceptor, reset_when_closed


@contextmanager
def answering(parts: Sequence[bytes], reset: bool = False) -> Iterator[str]:
    """Yield a base URL; each connection gets ``parts`` in order, then a close (or a reset)."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        if reset:
            reset_when_closed(connection)
        for part in parts:
            connection.sendall(part)

    acceptor = Acceptor(serve)
    try:
        yield f"{acceptor.url}/v1"
    finally:
        acceptor.close(drop=True)
