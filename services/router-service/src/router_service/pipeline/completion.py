"""What is left of a finished request: its record, its log line, its metrics, its spans."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import orjson

from router_service.pipeline.job import Job
from router_service.pipeline.ledger import Ledger, ledger
from router_service.pipeline.request_spans import request_span
from router_service.pipeline.verdict import Baselines
from router_service.records.record import DecisionRecord
from router_service.records.ring import Ring
from router_service.routing.vocabulary import Outcome
from router_service.telemetry.request_metrics import RequestMetrics, RequestSample
from router_service.telemetry.spans import SpanSink

_ENDED = b'{"level":"info","service":"router-service","event":"request",'
_FAILED = _ENDED.replace(b"info", b"warning")


class Completion:
    """Called once per request, after its end. Nothing here is waited for."""

    def __init__(
        self,
        ring: Ring,
        metrics: RequestMetrics,
        write_line: Callable[[bytes], None],
        spans: SpanSink,
        slow_first_token_seconds: float,
    ) -> None:
        self.ring = ring
        self.slow_first_token_seconds = slow_first_token_seconds
        self._metrics = metrics
        self._write_line = write_line
        self._spans = spans
        self._baselines = Baselines()

    def __call__(self, job: Job) -> None:
        record = self.record(job)
        slow = self._measure(job, record)
        text = log_text(record)
        self.ring.add(record, text)
        self._write_line((_FAILED if failed(record.outcome) else _ENDED) + text[1:] + b"\n")
        if self._spans.enabled and (job.trace.sampled or slow or failed(record.outcome)):
            self._spans.export(request_span(job, record))

    def record(self, job: Job) -> DecisionRecord:
        """The decision record of a finished job."""
        inbound = job.inbound
        record = DecisionRecord(
            job.request_id, inbound.path.path, inbound.received_epoch, job.settings.policy.hash
        )
        record.client_id = job.client_id
        record.trace_id = job.trace.trace_id
        features = job.features
        if features is not None:
            features.headers = None  # neither text nor headers outlive the request
            features.user_text = None
            record.features = features
        record.first_decision = job.first_decision
        record.decision = job.decision
        record.queue_position = job.queue_position
        record.attempts = job.attempts
        if job.decide_seconds:
            record.decide_ms = job.decide_seconds * 1e3
        report = job.report
        record.tokens_prompt = report.prompt_tokens
        record.tokens_completion = report.completion_tokens
        record.total_ms = (job.ended - inbound.received) * 1e3
        record.status = job.status
        record.outcome = job.outcome or Outcome.UPSTREAM_ERROR
        record.detail = job.detail
        if job.first is not None:
            found: Ledger = ledger(job.first, report.queue_ms, report.prefill_ms)
            record.ledger = found.parts
            record.edge_skewed = found.edge_skewed
            record.first_token_ms = found.first_token_ms
            record.decode_ms = (job.last_byte_at - job.first.first_byte) * 1e3
            if record.decision is not None:
                record.verdict = self._baselines.verdict(record.decision.pool, found)
        return record

    def _measure(self, job: Job, record: DecisionRecord) -> bool:
        slow = record.first_token_ms is not None and (
            record.first_token_ms > self.slow_first_token_seconds * 1e3
        )
        decision = record.decision
        features = record.features
        served = decision is not None and features is not None and decision.unroutable != "model_not_found"
        self._metrics.finished(
            RequestSample(
                pool=decision.pool if decision is not None else "",
                backend=decision.chosen.name if decision is not None and decision.chosen is not None else "",
                rule=decision.rule_name if decision is not None else "",
                reason=decision.reason if decision is not None else "none_available",
                outcome=record.outcome or "",
                operation=job.inbound.path.operation,
                model=_model_label(job) if served else "other",
                prompt_chars=features.prompt_chars if features is not None else 0,
                affinity=job.first_decision.affinity if job.first_decision is not None else "off",
                seconds=(record.total_ms or 0.0) / 1e3,
                first_token_seconds=None if record.first_token_ms is None else record.first_token_ms / 1e3,
                decode_seconds=None if record.decode_ms is None else record.decode_ms / 1e3,
                ledger_ms=record.ledger,
                slow=slow,
                prompt_tokens=record.tokens_prompt,
                completion_tokens=record.tokens_completion,
                attempts=[(attempt.backend, attempt.outcome) for attempt in record.attempts],
                resumes=job.resumes,
                stale=job.stale_connections,
                trace_id=job.trace.trace_id if job.trace.sampled else "",
                at=inbound_end(job),
            )
        )
        return slow


def inbound_end(job: Job) -> float:
    """When the job ended, in epoch seconds."""
    return job.inbound.received_epoch + (job.ended - job.inbound.received)


def failed(outcome: Outcome | None) -> bool:
    """True for outcomes that somebody will want to see in a trace."""
    return outcome in (Outcome.UPSTREAM_ERROR, Outcome.TRUNCATED, Outcome.TIMEOUT, Outcome.REFUSED)


def log_text(record: DecisionRecord) -> bytes:
    """A record as it is logged: one compact JSON object. A copy: orjson's own bytes hold 8 kB, and these are kept."""
    return bytes(memoryview(orjson.dumps(record.as_dict(), default=str)))


def event_line(level: str, event: str, values: Mapping[str, object]) -> bytes:
    """One line about the router itself."""
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    fields = {"time": at, "level": level, "service": "router-service", "event": event, **values}
    return orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE)


def _model_label(job: Job) -> str:
    """A configured name, so that clients cannot make series; `other` for what only `*` serves."""
    features = job.features
    assert features is not None
    return features.model if features.model in job.settings.policy.named else "other"
