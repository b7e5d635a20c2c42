"""The fast relay: writes an answer straight to the client's transport, past ASGI's ``send``.

Everything in this project that touches uvicorn's internals is in this file, and
``tests/api/test_uvicorn_internals.py`` fails when one of them changes. Why: one task switch and one
``send`` per chunk cost more than moving the chunk (docs/performance.md). It knows nothing of what it
writes.
"""

import asyncio
import socket
import struct
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from router_service.openai_api.errors import error_body
from router_service.pipeline.headers import request_id
from router_service.pipeline.relay import ClientListener, Headers

EXTENSION = "router_service.relay"
"""Key in ``scope["extensions"]`` under which a request finds its relay."""

_NO_BODY = frozenset({204, 304})
"""Answers that end with their head: neither a length nor chunks may be announced."""

_LINGER_SECONDS = 2.0
"""How long the rest of a refused body is still read, and thrown away."""

_FLUSH_SECONDS = 10.0
"""How long an aborted answer may still be flushed to a client that does not read."""

_RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which closing a socket resets its connection."""


class TransportRelay:
    """:class:`~router_service.pipeline.relay.Relay` over one request of a :class:`RelayProtocol`."""

    __slots__ = (
        "_chunked",
        "_cycle",
        "_head",
        "_listener",
        "_protocol",
        "_transport",
        "_until_close",
        "gone",
    )

    def __init__(self, protocol: "RelayProtocol", cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._transport = protocol.transport
        self._listener: ClientListener | None = None
        self._head = b""
        self._chunked = False
        self._until_close = False
        self.gone = False

    def listen(self, listener: ClientListener | None) -> None:
        self._listener = listener
        if listener is None:
            return
        if self._cycle.disconnected or self._transport.is_closing():
            self.client_gone()
        elif self._protocol.flow.write_paused:
            listener.client_slow()

    def start(self, status: int, headers: Headers) -> None:
        cycle = self._cycle
        if RelayProtocol.draining:
            cycle.keep_alive = False
        parts = [STATUS_LINE[status]]
        for name, value in self._protocol.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        sized = False
        for name, value in headers:
            if name == b"content-length":
                sized = True
            parts += (name, b": ", value, b"\r\n")
        if not sized and status not in _NO_BODY:
            # HTTP/1.0 has no chunks: there the end of the connection is the end of the body.
            self._chunked = cycle.scope["http_version"] == "1.1"
            self._until_close = not self._chunked
            if self._chunked:
                parts.append(b"transfer-encoding: chunked\r\n")
        if not cycle.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        self._head = b"".join(parts)

    def write(self, data: bytes) -> None:
        if self.gone or not data:  # an empty chunk would end the body
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data = self._head + data
            self._head = b""
        self._transport.write(data)

    def finish(self, trailers: Headers = ()) -> None:
        if self.gone:
            return
        end = self._head
        self._head = b""
        if self._chunked:
            end += b"0\r\n"
            for name, value in trailers:
                end += name + b": " + value + b"\r\n"
            end += b"\r\n"
        if end:
            self._transport.write(end)
        self._release()
        cycle = self._cycle
        if RelayProtocol.draining:  # begun before: its head could not say so
            cycle.keep_alive = False
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            if cycle.more_body:  # closing on a client that still sends would cost it the answer
                asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.close)
            else:
                self._transport.close()
        cycle.on_response()

    def abort(self) -> None:
        if self.gone:
            return
        self.gone = True
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._release()
        self._cycle.response_started = True
        self._cycle.disconnected = True
        if self._until_close and not self._transport.is_closing():  # an orderly close would be the body's end
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.close()
        asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._transport.abort)

    async def settled(self) -> None:
        """Nothing to wait for: the transport has everything."""

    def client_gone(self) -> None:
        """Called by the protocol when the connection is lost, or when it is found to be closing: then uvicorn has
        not heard yet, and must not answer in the place of a request that ends without."""
        self.gone = True
        self._cycle.disconnected = True
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.client_gone()

    def pause(self) -> None:
        """Called by the protocol when the transport's buffer is full."""
        if self._listener is not None:
            self._listener.client_slow()

    def resume(self) -> None:
        """Called by the protocol when the transport's buffer has drained."""
        if self._listener is not None:
            self._listener.client_ready()

    def _release(self) -> None:
        self._listener = None
        if self._protocol.relay is self:
            self._protocol.relay = None


class RelayProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, giving each request a relay in its scope's extensions."""

    relay: TransportRelay | None = None

    draining: ClassVar[bool] = False
    """True while this process is about to end: every answer is its connection's last, so that a client that keeps
    connections has given all of them up, one way or the other, before the rest is closed under it."""

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            if RelayProtocol.draining:
                self.cycle.keep_alive = False
            scope: dict[str, Any] = self.scope  # type: ignore[assignment]
            scope["extensions"] = {EXTENSION: RelayTurn(self, self.cycle)}
        self.headers = []  # what comes after the body (trailers) is nobody's header

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP in the shape every other refusal has; never into an answer under way."""
        cycle = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.close()
            return
        body = error_body(400, msg, "invalid_http")
        head = (
            STATUS_LINE[400],
            b"content-type: application/json\r\nx-request-id: ",
            request_id(None).encode("ascii"),
            b"\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body),
            body,
        )
        self.transport.write(b"".join(head))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        relay, self.relay = self.relay, None
        if relay is not None:
            relay.client_gone()
        # The transport, the cycle and the turn know this protocol: a closed connection would wait, with all
        # that hangs on it, for the garbage collector. (Requests that were piped in behind one another still
        # ask for them; they are rare.)
        if not self.pipeline:
            self._unset_keepalive_if_required()
            self.transport = self.flow = self.cycle = self.scope = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.relay is not None:
            self.relay.resume()


class RelayTurn:
    """Makes the relay when the request's turn has come: pipelined requests wait for theirs."""

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: RelayProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol: RelayProtocol | None = protocol
        self._cycle: RequestResponseCycle | None = cycle

    def body(self) -> bytes | None:
        """Take the request's body if it is here to its end; None: it must be received."""
        cycle = self._cycle
        if cycle is None or cycle.more_body or cycle.disconnected:
            return None
        assert self._protocol is not None
        self._protocol.flow.resume_reading()
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def last(self) -> None:
        """Serve nothing after this request, whose relay is not made yet: its body was not read to the end."""
        assert self._cycle is not None
        self._cycle.keep_alive = False

    def __call__(self) -> TransportRelay:
        """The request's relay; its connection tells this one, and no other, about the client."""
        protocol, cycle = self._protocol, self._cycle
        assert protocol is not None
        assert cycle is not None
        self._protocol = self._cycle = None  # the cycle's scope holds this turn
        relay = TransportRelay(protocol, cycle)
        protocol.relay = relay
        return relay
