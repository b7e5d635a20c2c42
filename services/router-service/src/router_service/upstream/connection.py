"""One HTTP/1.1 connection to a backend: sends request bytes and emits response events.

Owns framing only. Must not know the content of a body, attempts, retries or clients. It reports head and body to its
sink, then exactly one of end or failure, and notifies its pool when the connection is reusable.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import cast

import httptools

from router_service.ports import Broken, ConnectionLost, ResponseBroken, ResponseSink, StaleConnection
from router_service.upstream.tcp_info import TcpInfo, tcp_info

MAX_HEAD_BYTES = 64 * 1024
"""Largest incomplete response head in bytes, including interim responses. A longer head fails the attempt."""

STALE_SECONDS = 1.0
"""If a reused connection breaks within this time, the backend had already closed it. If it breaks later, the backend
failed while working."""

_NO_BODY = frozenset({204, 304})

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class _NotHttp(Exception):
    """Stops the parser from inside a callback."""


class UpstreamConnection(asyncio.Protocol):
    """A keep-alive connection that carries one exchange at a time.

    ``on_idle`` is called when the connection may serve another request. ``on_ending`` is called just before the
    connection closes, while the kernel still has its counters. ``on_closed`` is called once, after it has closed.
    """

    __slots__ = (
        "_answered",
        "_failed",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_interim",
        "_message_done",
        "_on_closed",
        "_on_ending",
        "_on_idle",
        "_parser",
        "_paused",
        "_reusable",
        "_sent_at",
        "_sink",
        "_transport",
        "_until_close",
        "idle_since",
        "used",
    )

    def __init__(
        self,
        on_idle: Callable[["UpstreamConnection"], None],
        on_ending: Callable[["UpstreamConnection"], None],
        on_closed: Callable[["UpstreamConnection"], None],
    ) -> None:
        self._on_idle = on_idle
        self._on_ending = on_ending
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._sink: ResponseSink | None = None
        self._paused = False
        self._sent_at = 0.0
        self.used = False
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._head_done = False
        self._interim = False
        self._answered = False
        self._message_done = False
        self._until_close = False
        self._reusable = True
        self._failed: str | None = None

    # -- what the pool and the caller use -------------------------------------------------------

    @property
    def open(self) -> bool:
        """True while the connection can still carry a request."""
        return self._transport is not None and not self._transport.is_closing()

    def tcp_info(self) -> TcpInfo | None:
        """Return the kernel's counters of the connection, None if they are unavailable or the connection is closed."""
        return None if self._transport is None else tcp_info(self._transport)

    def send(self, request: bytes, sink: ResponseSink) -> None:
        """Send one whole request and deliver its response to ``sink``. The connection must be idle."""
        assert self._sink is None
        assert self._transport is not None
        self._reset()
        self._sink = sink
        self._sent_at = perf_counter()
        self._transport.write(request)

    def pause(self) -> None:
        """Stop reading from the backend: its data waits in the kernel, then in the backend."""
        if not self._paused and self.open:
            self._paused = True
            cast(asyncio.Transport, self._transport).pause_reading()

    def resume(self) -> None:
        """Read again after :meth:`pause`."""
        if self._paused:
            self._paused = False
            if self.open:
                cast(asyncio.Transport, self._transport).resume_reading()

    def abort(self) -> None:
        """Reset the connection at once. The sink receives no further event; the backend sees the reset."""
        self._sink = None
        if self._transport is not None:
            self._on_ending(self)
            self._transport.abort()

    def close(self) -> None:
        """Close an idle connection gracefully."""
        if self._transport is not None:
            self._on_ending(self)
            self._transport.close()

    # -- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            # No request is pending: the bytes are unsolicited, or follow a complete response.
            self.abort()
            return
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("the backend switched protocols")
            return
        except httptools.HttpParserError as error:
            if not self._message_done:
                context = error.__context__
                if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(context, _NotHttp):
                    # A router bug: end the request, then raise the original exception so that it is logged.
                    self._fail("the router could not process the response")
                    if context is not None:
                        raise context from None
                self._fail(self._failed or f"not HTTP/1.1: {error}")
                return
            self._reusable = False  # Bytes after a complete response: later bytes cannot be trusted.
        if self._message_done:
            self._complete()
        elif not self._head_done:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail("the response headers are over 64 KiB")

    def eof_received(self) -> None:
        """Let the transport close; :meth:`connection_lost` decides whether the response was complete."""
        self._on_ending(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        sink, self._sink = self._sink, None
        if sink is not None:
            if self._until_close and self._head_done and exc is None:
                sink.on_end()
            elif not self._answered and self.used and perf_counter() - self._sent_at < STALE_SECONDS:
                sink.on_failure(StaleConnection("the kept-alive connection had been closed"))
            else:
                sink.on_failure(ConnectionLost(_how(exc), self._stage()))
        self._on_closed(self)

    # -- httptools callbacks -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._message_done:
            self._reusable = False  # A second response to one request.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # Later headers are trailers, which are not forwarded to the client.
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._message_done:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._interim = True
            return
        if not 200 <= status < 600:
            self._failed = f"{status} is not a status of HTTP"
            raise _NotHttp
        sink = self._sink
        if sink is None:
            return
        headers = self._headers
        if status not in _NO_BODY and not _framed(headers):
            self._until_close = True
            self._reusable = False
        self._head_done = True
        sink.on_head(status, headers)

    def on_body(self, data: bytes) -> None:
        sink = self._sink
        if sink is not None and not self._message_done:
            sink.on_body(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self._headers = []
            return
        self._message_done = True
        # The parser knows this only before it leaves the message.
        if not self._parser.should_keep_alive():
            self._reusable = False

    # -- ends ----------------------------------------------------------------------------------

    def _complete(self) -> None:
        sink, self._sink = self._sink, None
        self.used = True
        if not self._reusable or not self.open:
            self.close()
        else:
            if self._paused:
                self.resume()
            self._on_idle(self)
        if sink is not None:
            sink.on_end()

    def _fail(self, why: str) -> None:
        sink, self._sink = self._sink, None
        stage = self._stage()
        if self._transport is not None:
            self._on_ending(self)
            self._transport.abort()
        if sink is not None:
            sink.on_failure(ResponseBroken(why, stage))

    def _stage(self) -> Broken:
        if self._head_done:
            return Broken.IN_BODY
        return Broken.IN_HEAD if self._answered else Broken.BEFORE_ANSWER


def _framed(headers: list[tuple[bytes, bytes]]) -> bool:
    """Return whether headers say where the body ends."""
    for pair in headers:  # noqa: SIM110 (a loop costs less than `any` over a generator)
        if pair[0] in _FRAMING:
            return True
    return False


def _how(exc: Exception | None) -> str:
    return "the backend closed the connection" if exc is None else f"the connection broke: {exc}"
