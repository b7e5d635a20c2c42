"""The interface between a response and its client. Must not know where the bytes come from or which server
sends them.
"""

from collections.abc import Sequence
from typing import Protocol

Headers = Sequence[tuple[bytes, bytes]]


class ClientListener(Protocol):
    """Receives events about the client of a running exchange. Each method is called at most once per change."""

    def client_slow(self) -> None:
        """The client reads more slowly than bytes arrive: stop reading from the backend."""

    def client_ready(self) -> None:
        """The client has caught up."""

    def client_gone(self) -> None:
        """The client disconnected before the response was complete. Later writes are ignored."""


class Relay(Protocol):
    """Writes one response to one client.

    Call ``start`` once, then ``write`` any number of times, then ``finish`` or ``abort``. After the client
    has disconnected, every call is ignored. No call blocks: back-pressure is reported to the listener.
    """

    @property
    def gone(self) -> bool:
        """True if the client disconnected before the end of its response."""

    def listen(self, listener: ClientListener | None) -> None:
        """Report the client's events to ``listener``; a client that has already disconnected is reported at
        once.
        """

    def start(self, status: int, headers: Headers) -> None:
        """Begin the response. With a ``content-length`` the body is sent unframed, else chunked.

        Nothing is sent before the first ``write`` or ``finish``.
        """

    def write(self, data: bytes) -> None:
        """Send a piece of the body; an empty piece is ignored."""

    def finish(self, trailers: Headers = ()) -> None:
        """End the response cleanly. Trailers are dropped if the client's protocol has none."""

    def abort(self) -> None:
        """Flush written bytes, then close the connection without completing the body."""

    async def settled(self) -> None:
        """Return once everything was handed to the server. Required before an ASGI callable returns."""
