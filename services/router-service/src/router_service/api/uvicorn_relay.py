"""The fast relay: writes a response directly to the client's transport, bypassing ASGI's ``send``.

One task switch and one ``send`` per chunk cost more than moving the chunk (docs/performance.md). All code that uses
uvicorn's internals is in this file, and ``tests/api/test_uvicorn_internals.py`` fails when one of them changes. Must
not know the content it writes.
"""

import asyncio
import re
import socket
import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from router_service.dead_peer import detect_dead_peer, expect_reading
from router_service.openai_api.errors import error_body
from router_service.pipeline.headers import request_id
from router_service.pipeline.relay import ClientListener, Headers

EXTENSION = "router_service.relay"
"""Key in ``scope["extensions"]`` under which a request finds its relay."""

_NO_BODY = frozenset({204, 304})
"""Statuses without a body: the head must announce neither a length nor chunks."""

_LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read and discarded."""

_FLUSH_SECONDS = 10.0
"""Time in which an aborted response may still be flushed to a client that does not read."""

_HEAD_BYTES = 8 * 1024
"""Number of a request's first bytes that are searched for an `Upgrade` header."""

_UPGRADE = re.compile(rb"(?i)\r\nupgrade[ \t]*:")

_RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which closing a socket resets its connection."""


class Draining:
    """Whether a server is shutting down; shared by all its connections.

    After :meth:`begin` every response closes its connection, so that no client sends on a closed one.
    """

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        """Make every connection close after its next response."""
        self.begun = True


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
        if self._protocol.draining.begun:
            cycle.keep_alive = False
        # A join of each pair costs a third of formatting it.
        lines = [*map(b": ".join, self._protocol.server_state.default_headers), *map(b": ".join, headers)]
        sized = False
        for pair in headers:
            if pair[0] == b"content-length":
                sized = True
        if not sized and status not in _NO_BODY:
            # HTTP/1.0 has no chunks: the end of the connection ends the body.
            self._chunked = cycle.scope["http_version"] == "1.1"
            self._until_close = not self._chunked
            if self._chunked:
                lines.append(b"transfer-encoding: chunked")
        if not cycle.keep_alive:
            lines.append(b"connection: close")
        lines.append(b"\r\n")
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        self._head = STATUS_LINE[status] + b"\r\n".join(lines)

    def write(self, data: bytes) -> None:
        if self.gone or not data:  # An empty chunk would end the body.
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
        # Close after this response; its head was already sent without `connection: close`.
        if self._protocol.draining.begun:
            cycle.keep_alive = False
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            # Closing while the client still sends would reset the connection and lose the response.
            if cycle.more_body:
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
        if (
            self._until_close and not self._transport.is_closing()
        ):  # A clean FIN would look like a complete body.
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.close()
        asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._transport.abort)

    async def settled(self) -> None:
        """Return at once: the transport has all bytes."""

    def client_gone(self) -> None:
        """Called by the protocol when the connection is lost or closing. uvicorn does not know yet, and must not
        answer in place of a request that ends without a response.
        """
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
    """uvicorn's HTTP/1.1 protocol; adds a relay to the scope extensions of each request."""

    relay: TransportRelay | None = None
    _idle_since = 0.0  # on the loop's clock; 0: a request is running

    def __init__(self, *arguments: Any, draining: Draining | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.draining = draining or Draining()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        detect_dead_peer(self._socket)

    def data_received(self, data: bytes) -> None:
        # Ignore an offer to switch protocols: the parser would treat the body as that protocol's data.
        if data.find(b"pgrade", 0, _HEAD_BYTES) >= 0 and (self.cycle is None or self.cycle.response_complete):
            head, gap, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nx-upgrade:", head) + gap + rest
        super().data_received(data)

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            if self.draining.begun:
                self.cycle.keep_alive = False
            scope: dict[str, Any] = self.scope  # type: ignore[assignment]
            scope["extensions"] = {EXTENSION: RelayTurn(self, self.cycle)}
        self.headers = []  # Headers after the body are trailers and belong to no request.

    def send_400_response(self, msg: str) -> None:
        """Refuse invalid HTTP with the same error body as other refusals, unless a response has begun."""
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
        # The transport, the cycle and the turn refer to this protocol. Drop the references, or a closed connection
        # and its objects wait for the garbage collector. Pipelined requests, which are rare, still need them.
        if not self.pipeline:
            super()._unset_keepalive_if_required()
            self.transport = self.flow = self.cycle = self.scope = None  # type: ignore[assignment]

    def on_response_complete(self) -> None:
        """Do what uvicorn does, with one timer for many requests: setting one for each costs 1 % of a request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._close_after(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """Called by uvicorn when a request arrives. The timer stays and finds a later ``_idle_since``."""
        self._idle_since = 0.0

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if not self._idle_since:
            return  # The end of the running request sets the timer.
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._close_after(left)
        else:
            super().timeout_keep_alive_handler()

    def _close_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def pause_writing(self) -> None:
        super().pause_writing()
        expect_reading(self._socket, False)
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        expect_reading(self._socket, True)
        if self.relay is not None:
            self.relay.resume()


class RelayTurn:
    """Creates the relay at the request's turn: pipelined requests wait for theirs."""

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: RelayProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol: RelayProtocol | None = protocol
        self._cycle: RequestResponseCycle | None = cycle

    def body(self) -> bytes | None:
        """Return the request body if all of it has arrived, else None: the caller must receive it."""
        cycle = self._cycle
        if cycle is None or cycle.more_body or cycle.disconnected:
            return None
        assert self._protocol is not None
        self._protocol.flow.resume_reading()
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def last(self) -> None:
        """Close the connection after this request, whose body was not read to the end."""
        assert self._cycle is not None
        self._cycle.keep_alive = False

    def __call__(self) -> TransportRelay:
        """Return the request's relay; the connection reports the client's events only to this one."""
        protocol, cycle = self._protocol, self._cycle
        assert protocol is not None
        assert cycle is not None
        self._protocol = self._cycle = None  # The cycle's scope refers to this turn.
        relay = TransportRelay(protocol, cycle)
        protocol.relay = relay
        return relay
