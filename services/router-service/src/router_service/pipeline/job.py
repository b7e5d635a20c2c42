"""The state of one request while it runs: ids, stamps, attempts, how it ended. Decides nothing."""

from dataclasses import dataclass, field
from typing import Any

from router_service.openai_api.usage import EngineReport
from router_service.pipeline import headers as fields
from router_service.pipeline.answer import Answer, HeadMaker, token_header
from router_service.pipeline.headers import RawHeaders
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.ledger import Stamps
from router_service.pipeline.settings import Settings
from router_service.ports import Upstream
from router_service.records.record import AttemptRecord
from router_service.routing.decision import Decision
from router_service.routing.features import Features
from router_service.routing.snapshot import BackendView
from router_service.routing.vocabulary import Outcome
from router_service.telemetry.trace_context import TraceContext


@dataclass(slots=True)
class Job:
    """One request. Times are `time.perf_counter` seconds."""

    inbound: Inbound
    settings: Settings
    request_id: str
    client_id: str
    session_id: str
    trace: TraceContext
    wants_trailers: bool
    features: Features | None = None
    first_decision: Decision | None = None
    decision: Decision | None = None
    decide_seconds: float = 0.0
    queued_seconds: float = 0.0
    queued_first_seconds: float = 0.0
    queue_position: int | None = None
    deadline: float = 0.0
    retrying: bool = False
    stale_connections: int = 0
    attempts: list[AttemptRecord] = field(default_factory=list)
    resumes: list[str] = field(default_factory=list)
    kept: list[bytes] | None = None
    attempts_began: float = 0.0
    attempt_began: float = 0.0
    connected_at: float = 0.0
    first: Stamps | None = None
    last_byte_at: float = 0.0
    ended: float = 0.0
    report: EngineReport = field(default_factory=EngineReport)
    status: int = 0
    outcome: Outcome | None = None
    detail: str = ""

    def decided(self, decision: Decision) -> None:
        """Keep a decision: the first one for replay, the last one for where the request went."""
        if self.first_decision is None:
            self.first_decision = decision
        self.decision = decision

    def route_headers(self) -> RawHeaders:
        """The headers that tell the client where its request went and why."""
        found = [(b"x-request-id", self.request_id.encode("ascii"))]
        decision = self.decision
        if decision is not None:
            chosen = decision.chosen
            found.append(
                (b"x-route-backend", chosen.name.encode("latin-1", "replace") if chosen else b"none")
            )
            found.append((b"x-route-rule", decision.rule_name.encode("latin-1", "replace")))
            found.append((b"x-route-reason", decision.reason.encode("ascii")))
            found.append((b"x-route-attempts", b"%d" % len(self.attempts)))
        return found

    def head_maker(self, decision: Decision) -> HeadMaker:
        """Makes the client's headers when the answer begins; ``decision`` is this attempt's."""

        def head(status: int, engine: RawHeaders, report: EngineReport | None) -> RawHeaders:
            found = self.route_headers() + engine
            if report is not None and self.wants_trailers and report.prompt_tokens is not None:
                found.append(token_header(report.prompt_tokens, report.completion_tokens or 0))
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

        return head

    def request_head(self, upstream: Upstream, url: str, length: int) -> bytes:
        """Request line and headers for one attempt."""
        return b"".join(
            (
                upstream.head(url, b"POST", self.inbound.target),
                fields.forwarded(self.inbound.headers),
                b"x-request-id: ",
                self.request_id.encode("ascii"),
                b"\r\ntraceparent: ",
                self.trace.traceparent(),
                b"\r\ncontent-length: %d\r\n\r\n" % length,
            )
        )

    def drops_usage(self, body: dict[str, Any]) -> bool:
        """True when the usage event must not reach the client: it did not ask for it."""
        if not self.inbound.path.usage_option:
            return False
        options = body.get("stream_options")
        return not (isinstance(options, dict) and options.get("include_usage") is True)

    def stamp(self, answer: Answer, backend: BackendView) -> None:
        """Keep the stamps of the attempt that brought the first token, and the time of the last byte."""
        if answer.last_byte_at:
            self.last_byte_at = answer.last_byte_at
        if self.first is None and answer.first_written_at and answer.events is not None:
            self.first = Stamps(
                self.inbound.edge_start(),
                self.inbound.received_epoch,
                self.inbound.received,
                self.queued_seconds,
                self.attempts_began,
                self.attempt_began,
                self.connected_at,
                answer.sent_at,
                answer.first_event_at,
                answer.first_written_at,
                self.queued_seconds - self.queued_first_seconds,
                len(self.attempts) > 1,
                backend.round_trip_seconds,
            )

    def take_report(self, report: EngineReport | None) -> None:
        """Take the engine's own figures of an attempt."""
        if report is not None:
            self.report = report
