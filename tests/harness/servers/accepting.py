"""The accept loop of raw TCP servers: one thread per connection. Must not depend on a protocol."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

Serve = Callable[[socket.socket], None]


class Acceptor:
    """Listens on a free port of 127.0.0.1 and calls ``serve`` with each connection in a new thread.

    A connection is closed when ``serve`` returns. An `OSError` in ``serve`` ends only its connection, because
    a client may disconnect at any time.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self, *, drop: bool) -> None:
        """Stop listening; with ``drop``, also shut down every open connection."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # Wakes the thread in accept().
        self._listening.close()
        self._thread.join(5)
        for connection in list(self._open) if drop else ():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._open.add(connection)
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._serve(connection)
        self._open.discard(connection)


def reset_when_closed(connection: socket.socket) -> None:
    """Make the connection's close send RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
