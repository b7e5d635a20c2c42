"""One attempt's answer on its way to the client: bytes in from the backend, bytes out through the relay.

It knows whether what came is a stream, when it is complete, and how it failed; it refuses to know why
this backend was chosen or what happens next. Nothing here waits: `done` tells the end.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter

from router_service.openai_api.errors import translated_error
from router_service.openai_api.event_stream import EventStream
from router_service.openai_api.paths import InferencePath
from router_service.openai_api.usage import TAIL_BYTES, EngineReport, read_report
from router_service.pipeline.attempt_end import End
from router_service.pipeline.headers import RawHeaders, first, returned
from router_service.pipeline.relay import Relay
from router_service.pipeline.seam import Seam
from router_service.ports import ConnectionLost, Exchange, ResponseBroken, StaleConnection, UpstreamError
from router_service.routing.rules import Timeouts

MAX_BUFFERED_BYTES = 1024 * 1024
"""An unstreamed answer up to this size is held until it is whole, so that it can still be retried."""

MAX_COMMENT_BYTES = 4096
"""Comments before the first event are kept up to this size; they must not end the chance to retry."""

_MAX_ERROR_BYTES = 256 * 1024


HeadMaker = Callable[[int, RawHeaders, EngineReport | None], RawHeaders]
"""Status, the engine's headers and (unstreamed) its report in; headers for the client out."""


class Answer:
    """Takes one answer (:class:`~router_service.ports.ResponseSink`) and tells the client's side
    (:class:`~router_service.pipeline.relay.ClientListener`).

    ``started`` is True once body bytes went to the relay: from then on there is no retry. Times are
    `time.perf_counter` seconds.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_comments",
        "_deadline",
        "_exchange",
        "_head",
        "_loop",
        "_path",
        "_paused",
        "_progress_at",
        "_reject",
        "_relay",
        "_seam",
        "_stream_events",
        "_streamed",
        "_tail",
        "_timeouts",
        "_timer",
        "_trailers",
        "buffered",
        "done",
        "end",
        "error",
        "events",
        "first_byte_at",
        "first_event_at",
        "first_written_at",
        "headers",
        "last_byte_at",
        "report",
        "sent_at",
        "started",
        "status",
    )

    def __init__(
        self,
        relay: Relay,
        path: InferencePath,
        head: HeadMaker,
        *,
        streamed: bool,
        events: EventStream,
        timeouts: Timeouts,
        deadline: float,
        reject: frozenset[int],
        trailers: bool,
        started: bool = False,
        seam: Seam | None = None,
    ) -> None:
        self._relay = relay
        self._path = path
        self._head = head
        self._streamed = streamed
        self._timeouts = timeouts
        self._deadline = deadline
        self._reject = reject
        self._trailers = trailers
        self._seam = seam
        self._exchange: Exchange | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._progress_at = 0.0
        self._comments = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._tail = b""
        self.buffered = True
        self.events: EventStream | None = None
        self._stream_events = events
        self.done: asyncio.Future[None] = self._loop.create_future()
        self.end = End.COMPLETE
        self.error = ""
        self.status = 0
        self.headers: RawHeaders = []
        self.report: EngineReport | None = None
        self.started = started
        self.sent_at = 0.0
        self.first_byte_at = 0.0
        self.first_event_at = 0.0
        self.first_written_at = 0.0
        self.last_byte_at = 0.0

    # -- begin ---------------------------------------------------------------------------------

    def send(self, exchange: Exchange, request: bytes) -> None:
        """Send the request; the clock of `first_token_seconds` starts."""
        self._exchange = exchange
        self._progress_at = self.sent_at = perf_counter()
        self._arm()
        self._relay.listen(self)
        if not self.done.done():
            exchange.send(request, self)

    def again(self) -> None:
        """Be ready to be sent once more: the connection had been closed before the backend saw it."""
        self.done = self._loop.create_future()
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
        if self._seam is not None and self.events is None:
            self.buffered = True  # no continuation: nothing of it may reach the client's stream

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
            self._progress_at = now
        if data:
            self._forward(data, events.progressed, now)
        if events.error is not None:
            self._stop(End.ENGINE_ERROR, "the engine announced an error in its stream")

    def on_end(self) -> None:
        events = self.events
        if events is not None:
            rest = events.rest(self._path.terminals)
            if events.error is not None:
                self._fail(End.ENGINE_ERROR, "the engine announced an error in its stream")
                return
            if rest:
                self._forward(rest, True, perf_counter())
                if self.done.done():
                    return
            if self._path.terminals and not events.ends_with_any(self._path.terminals):
                self._fail(End.INCOMPLETE, "the engine ended its stream without the terminal event")
                return
            self.report = self._read_report(events)
            self._relay.finish(self.token_trailer())
        elif not self.buffered:
            if not self.started:
                self._start(None, None)
            self.report = read_report(self._tail)
            self._relay.finish(self.token_trailer())
        elif self.status in self._reject or self._seam is not None:
            self._fail(End.REJECTED, f"the backend answered {self.status}")
            return
        else:
            self._finish_whole()
        self._settle(End.COMPLETE)

    def on_failure(self, error: UpstreamError) -> None:
        events = self.events
        if events is not None and self.started and events.ends_with_any(self._path.terminals):
            # The terminal event has come: nothing of the answer is missing, only HTTP's own end.
            self.report = self._read_report(events)
            self._relay.finish(self.token_trailer())
            self._settle(End.COMPLETE)
            return
        if isinstance(error, StaleConnection):
            self._fail(End.STALE, str(error))
        elif isinstance(error, ConnectionLost):
            self._fail(End.BROKEN, str(error))
        elif isinstance(error, ResponseBroken):
            self._fail(End.MALFORMED, str(error))
        else:
            self._fail(End.CONNECT_FAILED, str(error))

    # -- the client (ClientListener) -----------------------------------------------------------

    def client_slow(self) -> None:
        self._paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def client_ready(self) -> None:
        self._paused = False
        self._progress_at = perf_counter()  # silence while the client did not read is not the engine's
        if self._exchange is not None:
            self._exchange.resume()

    def client_gone(self) -> None:
        self._stop(End.CLIENT_GONE, "the client left")

    def stop(self, end: End, why: str) -> None:
        """End the attempt from outside (shutdown)."""
        self._stop(end, why)

    # -- inside --------------------------------------------------------------------------------

    def _take_plain(self, data: bytes, now: float) -> None:
        self._progress_at = now
        if not self.buffered:
            self._write_plain(data, now)
            return
        self._body.append(data)
        self._body_bytes += len(data)
        limit = MAX_BUFFERED_BYTES if self.status < 400 else _MAX_ERROR_BYTES
        if self._body_bytes > limit:
            if self.status >= 400 or self._seam is not None:
                self._stop(End.MALFORMED, "the backend's error has no end")
                return
            self.buffered = False
            # The counts come behind the body, and a body of announced length has no trailers.
            length = None if self._trailers else first(self.headers, b"content-length")
            self._start(int(length) if length is not None and length.isdigit() else None, None)
            body, self._body = b"".join(self._body), []
            self._write_plain(body, now)

    def _write_plain(self, data: bytes, now: float) -> None:
        """Write a piece of a body that is not held, and keep its end: the counts are there."""
        self._tail = (self._tail + data if len(data) < TAIL_BYTES else data)[-TAIL_BYTES:]
        self._write(data, now)

    def _forward(self, data: bytes, progressed: bool, now: float) -> None:
        if self._seam is not None:
            data = self._seam.feed(data)
            if progressed and not self.first_event_at:
                self.first_event_at = now  # making the tail again is progress, though nobody sees it
            if self._seam.diverged:
                self._stop(End.DIVERGED, "the continuation did not join what was there")
                return
            if not data:
                return
            self._seam.written = True
        if self.started:
            self._relay.write(data)
            if not self.first_event_at:
                self.first_event_at = now
            if self._seam is not None and self._seam.over:
                self._finish_here()
            return
        if not progressed:
            self._comments = (self._comments + data)[-MAX_COMMENT_BYTES:]
            return
        self._write(self._comments + data, now)

    def _finish_here(self) -> None:
        """The answer is whole although the engine goes on: end both."""
        if self._exchange is not None:
            self._exchange.abort()
        if self.events is not None:
            self.report = self._read_report(self.events)
        self._relay.finish(self.token_trailer())
        self._settle(End.COMPLETE)

    def _write(self, data: bytes, now: float) -> None:
        if not self.started:
            self._start(None, None)
        if not self.first_written_at:
            self.first_event_at = now
            self._relay.write(data)
            self.first_written_at = perf_counter()
        else:
            self._relay.write(data)

    def _start(self, length: int | None, report: EngineReport | None) -> None:
        if self.started:
            return
        self.started = True
        headers = self._head(self.status, returned(self.headers), report)
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        self._relay.start(self.status, headers)

    def _finish_whole(self) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self.report = read_report(body)
        if self.status >= 400:
            body = translated_error(self.status, body)
            self.headers = [
                (name, value)
                for name, value in self.headers
                if name not in (b"content-type", b"content-encoding")
            ]
            self.headers.append((b"content-type", b"application/json"))
        self._start(None if self.status in (204, 304) else len(body), self.report)
        if body:
            self._relay.write(body)
        self._relay.finish()

    def _read_report(self, events: EventStream) -> EngineReport:
        report = read_report(events.tail())
        return report if self._seam is None else self._seam.total(report)

    def token_trailer(self) -> RawHeaders:
        """The counts of the answer, when they were asked for and are known."""
        report = self.report
        if not self._trailers or report is None:
            return []
        if report.prompt_tokens is None or report.completion_tokens is None:
            return []
        return [token_header(report.prompt_tokens, report.completion_tokens)]

    def _arm(self) -> None:
        """One timer per attempt; it looks at what has happened instead of being moved by every chunk."""
        now = perf_counter()
        due = self._deadline
        if self._streamed:
            seconds = (
                self._timeouts.idle_seconds if self.first_event_at else self._timeouts.first_token_seconds
            )
            due = min(due, self._progress_at + seconds if self.first_event_at else self.sent_at + seconds)
        self._timer = self._loop.call_later(max(0.001, due - now), self._look)

    def _look(self) -> None:
        now = perf_counter()
        if now >= self._deadline:
            self._stop(End.TOTAL_TIMEOUT, "the request took longer than total_seconds")
            return
        if self._streamed and self._paused:
            self._progress_at = now
        elif self._streamed:
            if not self.first_event_at:
                if now >= self.sent_at + self._timeouts.first_token_seconds:
                    self._stop(End.FIRST_TOKEN_TIMEOUT, "no first byte within first_token_seconds")
                    return
            elif now >= self._progress_at + self._timeouts.idle_seconds:
                self._stop(End.IDLE_TIMEOUT, "the stream was silent for idle_seconds")
                return
        self._arm()

    def _stop(self, end: End, why: str) -> None:
        """End the attempt and make the backend see it."""
        if self.done.done():
            return
        if self._exchange is not None:
            self._exchange.abort()
        self._fail(end, why)

    def _fail(self, end: End, why: str) -> None:
        if self.done.done():
            return
        self.error = why
        events = self.events
        if events is not None:
            self.report = self._read_report(events)
            if self.started and events.oversized:
                self._relay.write(b"\n\n")  # what follows must not become a part of the event that broke
        self._settle(end)

    def _settle(self, end: End) -> None:
        self.end = end
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._relay.listen(None)
        if not self.done.done():
            self.done.set_result(None)

    def rejected_body(self) -> bytes:
        """What the backend said with a status that counts as a failed attempt."""
        return b"".join(self._body)


def token_header(prompt: int, completion: int) -> tuple[bytes, bytes]:
    """The counts for the edge's budgets; it strips this header (or trailer)."""
    return (b"x-route-tokens", b"prompt=%d,completion=%d" % (prompt, completion))
