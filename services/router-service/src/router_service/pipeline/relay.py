"""The seam between an answer and the client it goes to; knows neither where the bytes come from nor
what server carries them."""

from collections.abc import Sequence
from typing import Protocol

Headers = Sequence[tuple[bytes, bytes]]


class ClientListener(Protocol):
    """What a running exchange is told about its client. Called at most once each per change."""

    def client_slow(self) -> None:
        """The client reads slower than bytes arrive: stop producing."""

    def client_ready(self) -> None:
        """The client has caught up."""

    def client_gone(self) -> None:
        """The client left before the answer was complete. Nothing can be written any more."""


class Relay(Protocol):
    """Writes one answer to one client.

    ``start`` once, then any number of ``write``, then ``finish`` or ``abort``. After the client is
    gone every call is ignored. Nothing blocks: back-pressure is told to the listener.
    """

    @property
    def gone(self) -> bool:
        """True once the client has left before the end of its answer."""

    def listen(self, listener: ClientListener | None) -> None:
        """Tell ``listener`` about the client from now on; a client that already left is told at once."""

    def start(self, status: int, headers: Headers) -> None:
        """Begin the answer. With a ``content-length`` the body is sent as it is, else in chunks.

        Nothing goes out before the first ``write`` or ``finish``.
        """

    def write(self, data: bytes) -> None:
        """Send a piece of the body; an empty one is nothing."""

    def finish(self, trailers: Headers = ()) -> None:
        """End the answer cleanly. Trailers are left out where the client's protocol has none."""

    def abort(self) -> None:
        """Flush what was written, then close the connection without the end of the body."""

    async def settled(self) -> None:
        """Return when everything was handed to the server (needed before an ASGI callable returns)."""
