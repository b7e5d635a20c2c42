"""HTTP/2 on a plain socket, for connections that no client library keeps. Must not know any attack."""

import contextlib
import socket
import ssl
from collections.abc import Iterator

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event

Headers = list[tuple[str, str]]
SEND_SECONDS = 20.0


def post_headers(path: str, key: str, body_bytes: int | None = None) -> Headers:
    """Return the headers of a valid POST; with ``body_bytes`` they announce the size of its body."""
    headers = [
        (":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "a"),
        ("authorization", f"Bearer {key}"), ("content-type", "application/json"),
    ]  # fmt: skip
    return headers if body_bytes is None else [*headers, ("content-length", str(body_bytes))]


class Http2Client:
    """One connection. The caller writes frames through ``protocol`` and sends them with ``flush``."""

    def __init__(self, connection: socket.socket) -> None:
        """Send the preface and the settings."""
        self.socket = connection
        self.protocol = H2Connection(H2Configuration(validate_outbound_headers=False))
        self.protocol.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """Send the frames that ``protocol`` has produced."""
        # The timeout of `events` may be too short for them, and TLS cannot continue a record that was cut off.
        self.socket.settimeout(SEND_SECONDS)
        self.socket.sendall(self.protocol.data_to_send())

    def events(self, seconds: float) -> list[Event] | None:
        """Return the events of the next bytes within ``seconds``; None if the peer closed the connection."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return []
        except ConnectionError:
            return None
        if not data:
            return None
        found: list[Event] = self.protocol.receive_data(data)
        with contextlib.suppress(ConnectionError):
            self.flush()
        return found


@contextlib.contextmanager
def connected(port: int, seconds: float = 20.0, tls: ssl.SSLContext | None = None) -> Iterator[socket.socket]:
    """Connect to a port of the loopback address until the block ends; with ``tls`` agree on HTTP/2 by ALPN."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as plain:
        if tls is None:
            yield plain
            return
        tls.set_alpn_protocols(["h2"])
        with tls.wrap_socket(plain, server_hostname="localhost") as secured:
            assert secured.selected_alpn_protocol() == "h2"
            yield secured


@contextlib.contextmanager
def http2_client(
    port: int, seconds: float = 20.0, tls: ssl.SSLContext | None = None
) -> Iterator[Http2Client]:
    """Connect to a port of the loopback address and close the connection when the block ends."""
    with connected(port, seconds, tls) as connection:
        yield Http2Client(connection)
