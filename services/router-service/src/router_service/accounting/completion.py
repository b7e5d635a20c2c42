"""Completes a finished request: its record, log line, metrics and spans."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import orjson

from platform_contracts.log_lines import timestamp
from router_service.accounting.cache_homes import CacheHomes
from router_service.accounting.ledger import Ledger, ledger
from router_service.accounting.request_spans import request_span
from router_service.accounting.verdict import Baselines
from router_service.pipeline.job import Job
from router_service.records.record import DecisionRecord
from router_service.records.ring import Ring
from router_service.routing.client_text import bounded, recordable_model
from router_service.routing.shadowing import noted
from router_service.routing.vocabulary import AffinityState, Outcome, Reason
from router_service.telemetry.request_metrics import RequestMetrics, RequestSample
from router_service.telemetry.spans import SpanSink

_ENDED = b'{"level":"info","service":"router-service","event":"request",'
_FAILED = _ENDED.replace(b"info", b"warning")

MAX_LINE_BYTES = 64 * 1024
"""Maximum size of a record's text. Only the rejected candidates of a fleet of hundreds can exceed it."""

CACHE_EXPECTED = frozenset({"kept", "prefix_kept"})
"""Values of the label `affinity` of requests whose backend should have their prefix in its cache."""

_FAILURES = frozenset({Outcome.UPSTREAM_ERROR, Outcome.TRUNCATED, Outcome.TIMEOUT, Outcome.REFUSED})

MAX_VALUE_BYTES = 8 * 1024
"""Maximum size of one value in a log line about the router itself: enough for a traceback."""


class Recorder:
    """Builds the decision record of a finished job. Keeps each pool's usual times and the backends of each prefix."""

    def __init__(self, homes: CacheHomes) -> None:
        self.homes = homes
        self._baselines = Baselines()

    def record(self, job: Job) -> DecisionRecord:
        """Return the decision record of a finished job."""
        features = job.features
        if features is not None:
            features.headers = None  # Release text and headers at the end of the request.
            features.user_text = None
            features.model = _recorded_model(job)
        record = _begun(job)
        inbound, report = job.inbound, job.report
        record.tokens_prompt = report.prompt_tokens
        record.tokens_completion = report.completion_tokens
        record.tokens_cached = report.cached_tokens
        record.tokens_reasoning = report.reasoning_tokens
        record.total_ms = (job.ended - inbound.received) * 1e3
        record.status = job.status
        record.outcome = job.outcome or Outcome.UPSTREAM_ERROR
        if job.detail:
            record.detail = bounded(job.detail)
        if job.first is not None:
            found: Ledger = ledger(job.first, report.queue_ms, report.prefill_ms)
            record.ledger = found.parts
            record.edge_skewed = found.edge_skewed
            record.first_token_ms = found.first_token_ms
            if job.first_answer_at:
                thought = max(0.0, job.first_answer_at - job.first.first_written)
                record.first_answer_ms = found.first_token_ms + thought * 1e3
            record.decode_ms = (job.last_byte_at - job.first.first_byte) * 1e3
            if record.decision is not None:
                record.verdict = self._baselines.verdict(record.decision.pool, found)
        if features is not None and features.prefix and record.outcome is Outcome.OK:
            record.prefix_state = self._prefix_state(job, features.prefix)
        return record

    def _prefix_state(self, job: Job, prefix: str) -> str:
        """Return where the prefix cache was expected, "" for requests that were not placed by their prefix."""
        first, decision = job.first_decision, job.decision
        if first is None or decision is None or decision.chosen is None:
            return ""
        if first.affinity is not AffinityState.OFF or first.policy != Reason.PREFIX_AFFINITY:
            return ""
        return self.homes.served(prefix, decision.chosen.name, job.ended)


class Completion(Recorder):
    """Called once per request, after its end. No caller waits for it."""

    def __init__(
        self,
        ring: Ring,
        metrics: RequestMetrics,
        write_line: Callable[[bytes], None],
        spans: SpanSink,
        slow_first_token_seconds: float,
        homes: CacheHomes,
        settle: Callable[[Job], None] | None = None,
    ) -> None:
        super().__init__(homes)
        self._settle = settle
        self.ring = ring
        self._slow_first_token_seconds = slow_first_token_seconds
        self._metrics = metrics
        self._write_line = write_line
        self._spans = spans

    def reconfigure(self, slow_first_token_seconds: float, cache_seconds: float) -> None:
        """Set the time after which a first token counts as slow, and how long a prefix cache is expected."""
        self._slow_first_token_seconds = slow_first_token_seconds
        self.homes.lifetime_seconds = cache_seconds

    def __call__(self, job: Job) -> None:
        if (job.cut_off or job.settles) and self._settle is not None:
            self._settle(job)
        record = self.record(job)
        slow = self._measure(job, record)
        text = log_text(record)
        self.ring.add(record, text)
        bad = failed(record.outcome)
        self._write_line((_FAILED if bad else _ENDED) + text[1:] + b"\n")
        if self._spans.enabled and (job.trace.sampled or slow or bad):
            self._spans.export(request_span(job, record))

    def _measure(self, job: Job, record: DecisionRecord) -> bool:
        slow = record.first_token_ms is not None and (
            record.first_token_ms > self._slow_first_token_seconds * 1e3
        )
        decision = record.decision
        features = record.features
        served = decision is not None and features is not None and bool(decision.pool)
        affinity = _affinity(job, record)
        self._metrics.finished(
            RequestSample(
                pool=decision.pool if decision is not None else "",
                backend=decision.chosen.name if decision is not None and decision.chosen is not None else "",
                class_name=decision.class_name if decision is not None else "",
                rule=decision.rule_name if decision is not None else "",
                reason=decision.reason if decision is not None else "none_available",
                outcome=record.outcome or "",
                operation=job.inbound.path.operation,
                model=_model_label(job) if served else "other",
                prompt_chars=features.prompt_chars if features is not None else 0,
                affinity=affinity,
                seconds=(record.total_ms or 0.0) / 1e3,
                queue_seconds=job.queued_seconds,
                first_token_seconds=None if record.first_token_ms is None else record.first_token_ms / 1e3,
                decode_seconds=None if record.decode_ms is None else record.decode_ms / 1e3,
                ledger_ms=record.ledger,
                slow=slow,
                prompt_tokens=record.tokens_prompt,
                completion_tokens=record.tokens_completion,
                cached_tokens=record.tokens_cached,
                reasoning_tokens=record.tokens_reasoning,
                cache_expected=served and affinity in CACHE_EXPECTED,
                first_answer_seconds=None if record.first_answer_ms is None else record.first_answer_ms / 1e3,
                attempts=[(attempt.backend, attempt.outcome) for attempt in record.attempts],
                resumes=job.resumes,
                stale=job.stale_connections,
                trace_id=job.trace.trace_id if job.trace.sampled else "",
                at=inbound_end(job),
            )
        )
        return slow


def running_record(job: Job, waits_for: str, waited_seconds: float) -> dict[str, Any]:
    """Return the record of a request that is still running, with what it waits for.

    ``outcome`` is None; ``running`` has ``waits_for``, ``waited_ms`` and, at a backend, its name. The request itself
    stays unchanged.
    """
    record = _begun(job)
    record.total_ms = (perf_counter() - job.inbound.received) * 1e3
    fields = record.as_dict(whole=True)
    if job.features is not None:
        fields["model"] = _recorded_model(job)
    fields["running"] = {"waits_for": waits_for, "waited_ms": round(waited_seconds * 1e3, 3)}
    if job.attempts and waits_for != "backend":
        fields["running"]["backend"] = job.attempts[-1].backend
    return fields


def _begun(job: Job) -> DecisionRecord:
    """Return a record with what is known from the beginning of a request."""
    inbound = job.inbound
    record = DecisionRecord(
        job.request_id, inbound.path.path, inbound.received_epoch, job.settings.policy.hash
    )
    record.client_id = job.client_id
    record.shadow_of = job.shadow_of
    record.replica = job.settings.replica_name
    record.edge_attempt = job.edge_attempt
    record.trace_id = job.trace.trace_id
    record.features = job.features
    record.first_decision = job.first_decision
    record.decision = job.decision
    record.queue_position = job.queue_position
    record.held_ms = job.held_seconds * 1e3
    record.went_ahead = job.went_ahead
    record.attempts = job.attempts
    if job.decide_seconds:
        record.decide_ms = job.decide_seconds * 1e3
    if job.shadow is not None:
        record.shadow = noted(job.shadow.pool, job.request_id, job.shadow.left_out)
    return record


def _recorded_model(job: Job) -> str:
    features = job.features
    assert features is not None
    return features.model if features.model in job.settings.policy.named else recordable_model(features.model)


def _affinity(job: Job, record: DecisionRecord) -> str:
    """Return the label `affinity`: the session's state, or that of the prompt's beginning."""
    if record.prefix_state:
        return f"prefix_{record.prefix_state}"
    return job.first_decision.affinity if job.first_decision is not None else AffinityState.OFF


def inbound_end(job: Job) -> float:
    """Return when the job ended, in epoch seconds."""
    return job.inbound.received_epoch + (job.ended - job.inbound.received)


def failed(outcome: Outcome | None) -> bool:
    """Return True for outcomes whose trace is always exported."""
    return outcome in _FAILURES


def log_text(record: DecisionRecord) -> bytes:
    """Return a record as it is logged: one compact JSON object of at most :data:`MAX_LINE_BYTES`.

    A copy, because orjson allocates 8 kB for its own bytes and the ring stores these. If the text is too long, all
    candidates except the chosen one are left out; `candidates_total` still counts them.
    """
    fields = record.as_dict()
    text = orjson.dumps(fields, default=str)
    if len(text) > MAX_LINE_BYTES:
        chosen = fields["chosen"]
        fields["candidates"] = [c for c in fields["candidates"] if c["backend"] == chosen][:1]
        text = orjson.dumps(fields, default=str)
    return bytes(memoryview(text))


def event_line(level: str, event: str, values: Mapping[str, object]) -> bytes:
    """Return one log line about the router itself."""
    fields = {"time": timestamp(), "level": level, "service": "router-service", "event": event, **values}
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = bounded(value, MAX_VALUE_BYTES)
    return orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE)


def _model_label(job: Job) -> str:
    """Return a configured name, so that clients cannot create series; `other` for models served only by `*`."""
    features = job.features
    assert features is not None
    return features.model if features.model in job.settings.policy.named else "other"
