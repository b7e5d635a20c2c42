"""The state of one running request: ids, timestamps, attempts, outcome. Makes no decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router_service.openai_api.delivered import DeliveredTokens
from router_service.openai_api.errors import id_headers
from router_service.openai_api.usage import EngineReport
from router_service.pipeline import headers as fields
from router_service.pipeline.answer import Answer
from router_service.pipeline.headers import RawHeaders
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.response_homes import Home
from router_service.pipeline.settings import Settings
from router_service.pipeline.shadow_copy import Copy
from router_service.ports import Upstream
from router_service.records.record import AttemptRecord
from router_service.routing.decision import Decision
from router_service.routing.features import Features
from router_service.routing.rules import Timeouts
from router_service.routing.snapshot import BackendView
from router_service.routing.vocabulary import Outcome
from router_service.telemetry.trace_context import TraceContext

_NO_TIMEOUTS = Timeouts()
"""Default timeouts until the configuration's are known."""

_NO_REPORT = EngineReport()


@dataclass(slots=True)
class Stamps:
    """Clock readings of one streamed request. ``edge_start`` and ``received_epoch`` are epoch seconds, the
    others `time.perf_counter` seconds. With several attempts, the readings are those of the last one.

    ``queued_between_seconds`` is the share of ``queued_seconds`` after the first attempt had begun.
    ``round_trip_seconds`` is the round-trip time to the answering backend (None: not measured). ``held_seconds`` is
    the time before the first attempt in which no backend was ready.
    """

    edge_start: float | None
    received_epoch: float
    received: float
    queued_seconds: float
    attempts_began: float
    attempt_began: float
    connected: float
    sent: float
    first_byte: float
    first_written: float
    queued_between_seconds: float = 0.0
    retried: bool = False
    round_trip_seconds: float | None = None
    held_seconds: float = 0.0


@dataclass(slots=True)
class Job:
    """One request. Times are `time.perf_counter` seconds.

    ``home`` is the backend that has the response which the request continues, None for other requests.
    ``went_ahead``: how many requests of each class were sent to the pool while this one waited.
    ``held_seconds``: how long it waited for the start of an engine; ``holding`` is True meanwhile.
    ``headers`` are the request's headers by name.
    ``reserved_tokens`` is the edge's `x-edge-max-tokens`, "" if the request has a limit or no budget.
    ``opened``: the client has the head of a response. ``cut_off``: the client did not get the end of the answer, and
    so the edge did not get the token counts. ``delivered`` counts the tokens of such an answer where the engine does
    not report them in every event. ``settles``: the background request whose tokens this one reports, "" for other
    requests. ``shadow`` is its copy, None if no shadow takes it. ``shadow_of`` is the request of
    which this one is the copy, "" for requests.
    """

    inbound: Inbound
    settings: Settings
    request_id: str
    client_id: str
    session: tuple[str, str]
    trace: TraceContext
    wants_trailers: bool
    reserved_tokens: bytes = b""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    features: Features | None = None
    home: Home | None = None
    first_decision: Decision | None = None
    decision: Decision | None = None
    decide_seconds: float = 0.0
    queued_seconds: float = 0.0
    queued_first_seconds: float = 0.0
    queue_position: int | None = None
    held_seconds: float = 0.0
    holding: bool = False
    went_ahead: dict[str, int] = field(default_factory=dict)
    timeouts: Timeouts = _NO_TIMEOUTS
    deadline: float = 0.0
    edge_attempt: int = 1
    elapsed_before: float = 0.0
    retrying: bool = False
    stale_connections: int = 0
    attempts: list[AttemptRecord] = field(default_factory=list)
    resumes: list[str] = field(default_factory=list)
    kept: list[bytes] | None = None
    engine_fields: Mapping[str, Any] | None = None
    attempts_began: float = 0.0
    attempt_began: float = 0.0
    connected_at: float = 0.0
    first: Stamps | None = None
    first_answer_at: float = 0.0
    last_byte_at: float = 0.0
    ended: float = 0.0
    report: EngineReport = field(default_factory=lambda: _NO_REPORT)
    status: int = 0
    outcome: Outcome | None = None
    detail: str = ""
    opened: bool = False
    cut_off: bool = False
    settles: str = ""
    delivered: DeliveredTokens | None = None
    shadow: Copy | None = None
    shadow_of: str = ""

    def sent_again(self, attempt: bytes) -> None:
        """Record that the edge repeats this request because another router did not answer it.

        The time since the edge first sent it counts against `total_seconds`.
        """
        if len(attempt) > 3 or not attempt.isdigit():
            return
        self.edge_attempt = int(attempt)
        start = self.inbound.edge_start()
        if start is not None:
            self.elapsed_before = max(0.0, self.inbound.received_epoch - start)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the timeouts of this request."""
        if timeouts is self.timeouts:
            return
        self.timeouts = timeouts
        total = timeouts.total_seconds
        # A larger value means that the clocks disagree.
        before = self.elapsed_before if self.elapsed_before < total else 0.0
        self.deadline = self.inbound.received + total - before

    def decided(self, decision: Decision) -> None:
        """Keep a decision: the first one for replay, the last one as the destination of the request."""
        if self.first_decision is None:
            self.first_decision = decision
        self.decision = decision

    def route_headers(self) -> RawHeaders:
        """Return the headers that report the chosen backend and the reason to the client."""
        request_id = self.request_id.encode("ascii")
        found = []
        for name in id_headers(self.inbound.path.error_form):
            found.append((name, request_id))
        found.append((b"x-route-replica", self.settings.replica))
        decision = self.decision
        if decision is not None:
            chosen = decision.chosen
            found += (
                (b"x-route-backend", chosen.name.encode("latin-1", "replace") if chosen else b"none"),
                (b"x-route-rule", decision.rule_name.encode("latin-1", "replace")),
                (b"x-route-reason", decision.reason.encode("ascii")),
                (b"x-route-attempts", b"%d" % len(self.attempts)),
            )
        return found

    def response_headers(self, status: int, engine: RawHeaders, report: EngineReport | None) -> RawHeaders:
        """Return the client's headers (`recipient.HeadMaker`). Called when the response begins."""
        found = self.route_headers() + engine
        if report is not None and self.wants_trailers and report.prompt_tokens is not None:
            found.append(fields.token_header(report.prompt_tokens, report.completion_tokens or 0))
        elif report is None and status == 200:
            if self.features is not None and self.features.stream:
                names = {name for name, _ in engine}
                if b"cache-control" not in names:
                    found.append((b"cache-control", b"no-cache"))
                if b"x-accel-buffering" not in names:
                    found.append((b"x-accel-buffering", b"no"))
            if self.wants_trailers:
                found.append((b"trailer", b"x-route-tokens"))
        return found

    def request_head(self, upstream: Upstream, url: str, length: int) -> bytes:
        """Return the request line and headers of one attempt."""
        inbound = self.inbound
        return b"%b%bx-request-id: %b\r\ntraceparent: %b\r\ncontent-length: %d\r\n\r\n" % (
            upstream.head(url, b"POST" if inbound.stored is None else inbound.method, inbound.target),
            fields.forwarded(inbound.headers),
            self.request_id.encode("ascii"),
            self.trace.traceparent(),
            length,
        )

    def drops_usage(self, body: dict[str, Any]) -> bool:
        """Return True if the usage event must not reach the client, because the client did not request it."""
        if not self.inbound.path.usage_option:
            return False
        options = body.get("stream_options")
        return not (isinstance(options, dict) and options.get("include_usage") is True)

    def stamp(self, answer: Answer, backend: BackendView) -> None:
        """Keep the stamps of the attempt that produced the first token, and the time of the last byte."""
        if answer.last_byte_at:
            self.last_byte_at = answer.last_byte_at
        if not self.first_answer_at:
            self.first_answer_at = answer.first_answer_at
        if self.first is None and answer.first_written_at and answer.events is not None:
            self.first = Stamps(
                self.inbound.edge_start(),
                self.inbound.received_epoch,
                self.inbound.received,
                self.queued_seconds,
                self.attempts_began,
                self.attempt_began,
                self.connected_at,
                answer.clock.sent_at,
                answer.clock.first_token_at,
                answer.first_written_at,
                self.queued_seconds - self.queued_first_seconds,
                len(self.attempts) > 1,
                backend.round_trip_seconds,
                self.held_seconds,
            )

    def complete(self, answer: Answer | None) -> None:
        """Record a complete response. ``answer`` is None if only the end of a resumed stream was missing."""
        if answer is not None and answer.report is not None:
            self.report = answer.report
        if self.resumes:
            self.outcome = Outcome.OK  # The status is that of the first attempt.
            return
        assert answer is not None
        self.status = answer.status
        if answer.status < 400:
            self.outcome = Outcome.OK
        elif answer.status < 500:
            self.outcome = Outcome.CLIENT_ERROR
        else:
            self.outcome = Outcome.UPSTREAM_ERROR

    def take_report(self, report: EngineReport | None) -> None:
        """Store the engine's own figures of an attempt."""
        if report is not None:
            self.report = report
