"""A tiny HTTP server for one test: answers each request with the bytes it was given, then closes."""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


@contextmanager
def answering(parts: Sequence[bytes], reset: bool = False) -> Iterator[str]:
    """Yield a base URL; one connection gets ``parts`` in order, then an end (or a reset)."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # nobody came before the end
            return
        with connection:
            connection.recv(65536)
            with suppress(OSError):  # a client may leave at the first part that it does not like
                for part in parts:
                    connection.sendall(part)
            if reset:  # SO_LINGER 0 makes close() send RST
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes a thread that still waits in accept()
        listener.close()
        thread.join(5)
