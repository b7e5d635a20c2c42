"""One attempt's response on its way to the client: bytes in from the backend, bytes out through the relay.

Owns whether the response is a stream, when it is complete, and how it failed. Must not know why this backend
was chosen or what happens next. Nothing here waits: `done` is resolved at the end.
"""

import asyncio
from time import perf_counter

from router_service.openai_api.errors import translated_error
from router_service.openai_api.event_stream import EventStream
from router_service.openai_api.first_token import carries_answer, carries_output
from router_service.openai_api.usage import EngineReport, read_report
from router_service.pipeline.body import MAX_ERROR_BYTES, MAX_HELD_BYTES, PlainBody, Prelude
from router_service.pipeline.ends import End
from router_service.pipeline.headers import RawHeaders, first, returned, token_header
from router_service.pipeline.recipient import Recipient, Seam
from router_service.pipeline.watchdog import Watchdog
from router_service.ports import ConnectionLost, Exchange, ResponseBroken, StaleConnection, UpstreamError


class Answer:
    """Receives one response (`ports.ResponseSink`) and the client's events (`pipeline.relay.ClientListener`).

    ``started`` is True once body bytes other than comments were given to the relay: from then on there is no retry.
    ``opened`` is True once the client has received the head; of an event stream it may also have received comments.
    ``events`` is the reader of an event stream, None for other bodies. Times are `time.perf_counter` seconds.
    """

    __slots__ = (
        "_delivered",
        "_exchange",
        "_joins",
        "_plain",
        "_prelude",
        "_recipient",
        "_relay",
        "_seam",
        "_stream_events",
        "buffered",
        "clock",
        "done",
        "end",
        "error",
        "events",
        "first_answer_at",
        "first_byte_at",
        "first_written_at",
        "headers",
        "last_byte_at",
        "opened",
        "report",
        "started",
        "status",
    )

    def __init__(
        self, recipient: Recipient, events: EventStream, clock: Watchdog, seam: Seam | None = None
    ) -> None:
        self._recipient = recipient
        self._relay = recipient.relay
        self._delivered = recipient.delivered
        self._stream_events = events
        self._seam = seam
        # True if the client already has the head of an event stream, so that only events may follow.
        self._joins = seam is not None or recipient.opened
        self._exchange: Exchange | None = None
        self._plain: PlainBody | None = None
        self._prelude: Prelude | None = None
        self.clock = clock
        self.buffered = True
        self.events: EventStream | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.end = End.COMPLETE
        self.error = ""
        self.status = 0
        self.headers: RawHeaders = []
        self.report: EngineReport | None = None
        self.started = recipient.started
        self.opened = recipient.opened
        self.first_answer_at = 0.0
        self.first_byte_at = 0.0
        self.first_written_at = 0.0
        self.last_byte_at = 0.0

    @property
    def begun(self) -> bool:
        """True once the client has bytes of this attempt; for a continuation, only bytes that it added count."""
        return self.started if self._seam is None else self._seam.written

    # -- begin ---------------------------------------------------------------------------------

    def send(self, exchange: Exchange, request: bytes) -> None:
        """Send the request and start the clock of `first_token_seconds`."""
        self._exchange = exchange
        self.clock.start(self.stop)
        self._relay.listen(self)
        if not self.done.done():
            exchange.send(request, self)

    def again(self) -> None:
        """Prepare to send again, after the connection was closed before the backend saw the request."""
        self.done = asyncio.get_running_loop().create_future()
        self.end = End.COMPLETE
        self.error = ""

    # -- the answer, from the backend (ResponseSink) ----------------------------------------------

    def on_head(self, status: int, headers: RawHeaders) -> None:
        self.status = status
        self.headers = headers
        if status == 200 and (first(headers, b"content-type") or b"").startswith(b"text/event-stream"):
            encoding = first(headers, b"content-encoding")
            if encoding is None or encoding == b"identity":
                self.events = self._stream_events
            self.buffered = False
        if self._joins and self.events is None:
            self.buffered = True  # No byte of this response may reach the client's stream.
        if self.events is None:
            self._plain = PlainBody(self._recipient.editor)

    def on_body(self, data: bytes) -> None:
        now = perf_counter()
        self.last_byte_at = now
        if not self.first_byte_at:
            self.first_byte_at = now
        events = self.events
        if events is None:
            self._take_plain(data, now)
            return
        data = events.feed(data)
        if events.progressed:
            self.clock.progress_at = now
        if data:
            if self._delivered is not None:
                self._delivered.feed(data)
            if self.first_answer_at:  # Only forwarding is left to do; never set for a continuation.
                self._relay.write(data)
            else:
                self._forward(data, events.progressed, now)
        if events.error is not None:
            self.stop(End.ENGINE_ERROR, "the engine reported an error in its stream")

    def on_end(self) -> None:
        events = self.events
        if events is not None:
            self._end_stream(events)
            return
        plain = self._plain
        assert plain is not None
        if not self.buffered:
            if not self.started:
                self._start(None, None)
            self.report = plain.report()
            self._relay.write(plain.rest())
            self._relay.finish(self.token_trailer())
        elif self.status in self._recipient.reject or self._joins:
            self._fail(End.REJECTED, f"the backend answered {self.status}")
            return
        else:
            self._finish_whole(plain.take())
        self._settle(End.COMPLETE)

    def on_failure(self, error: UpstreamError) -> None:
        events = self.events
        if events is not None and self.started and events.ends_with_any(self._recipient.path.terminals):
            # The terminal event has arrived: only the end of the HTTP body is missing.
            self._complete_stream(events)
        elif isinstance(error, StaleConnection):
            self._fail(End.STALE, str(error))
        elif isinstance(error, ConnectionLost):
            self._fail(End.BROKEN, str(error))
        elif isinstance(error, ResponseBroken):
            self._fail(End.MALFORMED, str(error))
        else:
            self._fail(End.CONNECT_FAILED, str(error))

    # -- the client (ClientListener) -----------------------------------------------------------

    def client_slow(self) -> None:
        self.clock.pause()
        if self._exchange is not None:
            self._exchange.pause()

    def client_ready(self) -> None:
        self.clock.resume()
        if self._exchange is not None:
            self._exchange.resume()

    def client_gone(self) -> None:
        self.stop(End.CLIENT_GONE, "the client left")

    def stop(self, end: End, why: str) -> None:
        """End the attempt and reset its connection, so that the backend stops working on it."""
        if self.done.done():
            return
        if self._exchange is not None:
            self._exchange.abort()
        self._fail(end, why)

    # -- a body without events -----------------------------------------------------------------

    def _take_plain(self, data: bytes, now: float) -> None:
        plain = self._plain
        assert plain is not None
        self.clock.progress_at = now
        if not self.buffered:
            self._pass_on(plain, data, now)
            return
        if plain.hold(data, MAX_HELD_BYTES if self.status < 400 else MAX_ERROR_BYTES):
            return
        if self.status >= 400 or self._joins:
            self.stop(End.MALFORMED, "the backend's error is larger than 256 KiB")
            return
        self.buffered = False
        # Token counts follow the body as trailers, and HTTP/1.1 allows trailers only on a chunked body.
        changes = self._recipient.trailers or self._recipient.editor is not None
        length = None if changes else first(self.headers, b"content-length")
        self._start(int(length) if length is not None and length.isdigit() else None, None)
        self._pass_on(plain, plain.take(), now)

    def _pass_on(self, plain: PlainBody, data: bytes, now: float) -> None:
        self._write_first(plain.pass_on(data), now)

    def _finish_whole(self, body: bytes) -> None:
        self.report = read_report(body)
        if self.status >= 400:
            body = translated_error(self.status, body, self._recipient.path.error_form)
            self.headers = [
                (name, value)
                for name, value in self.headers
                if name not in (b"content-type", b"content-encoding")
            ]
            self.headers.append((b"content-type", b"application/json"))
        elif self._recipient.editor is not None:
            body = self._recipient.editor.whole(body)
        self._start(None if self.status in (204, 304) else len(body), self.report)
        if body:
            self._relay.write(body)
        self._relay.finish()

    def rejected_body(self) -> bytes:
        """Return the body of a response whose status counts as a failed attempt."""
        return self._plain.take() if self._plain is not None else b""

    # -- a stream of events --------------------------------------------------------------------

    def _forward(self, data: bytes, progressed: bool, now: float) -> None:
        if self._seam is not None:
            self._forward_joined(self._seam, data, progressed, now)
        elif self.clock.first_token_at:
            self._relay.write(data)
            self._look_for_answer(data)
        else:
            self._before_first_token(data, progressed, now)

    def _before_first_token(self, data: bytes, progressed: bool, now: float) -> None:
        """Hold events back until one carries output, so that a retry stays possible. Comments pass at once: they
        keep connections alive.
        """
        events = self.events
        assert events is not None
        if progressed and (events.oversized or carries_output(self._recipient.path, data)):
            if self._prelude is not None:
                data = self._prelude.take() + data
            self._write_first(data, now)
            return
        if self.started:
            self._relay.write(data)
            return
        if not progressed:
            self._open(None, None)
            self._relay.write(data)
            return
        if self._prelude is None:
            self._prelude = Prelude()
        if not self._prelude.hold(data):
            self._start(None, None)
            self._relay.write(self._prelude.take())

    def _forward_joined(self, seam: Seam, data: bytes, progressed: bool, now: float) -> None:
        """Write the new part of a continued response."""
        data = seam.feed(data)
        if progressed and not self.clock.first_token_at:
            self.clock.first_token_at = now  # the engine repeats the tail, which counts as progress
        if seam.diverged:
            self.stop(End.DIVERGED, "the continuation did not repeat the text that the client already has")
            return
        if not data:
            return
        seam.written = True
        self._relay.write(data)
        if seam.over:  # The response is complete although the engine is still sending.
            if self._exchange is not None:
                self._exchange.abort()
            assert self.events is not None
            self._complete_stream(self.events)

    def _end_stream(self, events: EventStream) -> None:
        terminals = self._recipient.path.terminals
        rest = events.rest(terminals)
        if events.error is not None:
            self._fail(End.ENGINE_ERROR, "the engine reported an error in its stream")
            return
        if rest:
            self._forward(rest, True, perf_counter())
            if self.done.done():
                return
        if terminals and not events.ends_with_any(terminals):
            self._fail(End.INCOMPLETE, "the engine ended its stream without the terminal event")
            return
        if not self.started:
            self._write_first(self._prelude.take() if self._prelude is not None else b"", perf_counter())
        self._complete_stream(events)

    def _complete_stream(self, events: EventStream) -> None:
        self.report = self._read_report(events)
        self._relay.finish(self.token_trailer())
        self._settle(End.COMPLETE)

    def _read_report(self, events: EventStream) -> EngineReport:
        report = read_report(events.tail())
        return report if self._seam is None else self._seam.total(report)

    # -- out -----------------------------------------------------------------------------------

    def _write_first(self, data: bytes, now: float) -> None:
        """Write ``data``; on the first call, record the time of the first output."""
        if not self.started:
            self._start(None, None)
        if self.first_written_at:
            self._relay.write(data)
            return
        self.clock.first_token_at = now
        self._relay.write(data)
        self.first_written_at = perf_counter()
        self._look_for_answer(data)

    def _look_for_answer(self, data: bytes) -> None:
        """Store the time of the first token after the reasoning."""
        if self.events is not None and carries_answer(self._recipient.path, data):
            self.first_answer_at = perf_counter()

    def _start(self, length: int | None, report: EngineReport | None) -> None:
        if not self.started:
            self.started = True
            self._open(length, report)

    def _open(self, length: int | None, report: EngineReport | None) -> None:
        """Send the head of the response, once."""
        if self.opened:
            return
        self.opened = True
        headers = self._recipient.head(self.status, returned(self.headers), report)
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        self._relay.start(self.status, headers)

    def token_trailer(self) -> RawHeaders:
        """Return the token counts as a trailer if they were requested and are known, else no trailers."""
        report = self.report
        if not self._recipient.trailers or report is None:
            return []
        if report.prompt_tokens is None or report.completion_tokens is None:
            return []
        return [token_header(report.prompt_tokens, report.completion_tokens)]

    # -- the end -------------------------------------------------------------------------------

    def _fail(self, end: End, why: str) -> None:
        if self.done.done():
            return
        self.error = why
        events = self.events
        if events is not None:
            self.report = self._read_report(events)
            if self.started and events.oversized:
                self._relay.write(b"\n\n")  # Ends the unfinished event.
        self._settle(end)

    def _settle(self, end: End) -> None:
        self.end = end
        self.clock.stop()
        self._relay.listen(None)
        if not self.done.done():
            self.done.set_result(None)
