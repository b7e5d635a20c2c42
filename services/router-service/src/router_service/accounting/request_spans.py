"""Spans of a finished request, built from its record: the router's own span and one per attempt."""

from router_service.pipeline.job import Job
from router_service.records.record import DecisionRecord
from router_service.routing.vocabulary import Outcome
from router_service.telemetry.spans import Attribute, FinishedSpan


def request_span(job: Job, record: DecisionRecord) -> FinishedSpan:
    """Return the span of the whole request, with names and attributes of the GenAI semantic conventions."""
    inbound = job.inbound
    model = record.features.model if record.features is not None else ""
    start = inbound.received_epoch
    attributes = {**_request_attributes(job, record), **_measured_attributes(record)}
    ok = record.outcome in (Outcome.OK, Outcome.CLIENT_ERROR, Outcome.CANCELLED)
    if not ok:
        attributes["error.type"] = record.outcome or ""
    span = FinishedSpan(
        name=f"{inbound.path.operation} {model[:128]}".strip(),
        trace_id=job.trace.trace_id,
        span_id=job.trace.span_id,
        parent_span_id=job.trace.parent_span_id,
        start=start,
        end=start + (record.total_ms or 0.0) / 1e3,
        attributes=attributes,
        error="" if ok else record.detail or "failed",
    )
    began = start + (job.attempts_began - inbound.received if job.attempts_began else 0.0)
    _add_attempts(span, record, began)
    return span


def _request_attributes(job: Job, record: DecisionRecord) -> dict[str, Attribute]:
    """Return the attributes of the request and of the decision."""
    inbound = job.inbound
    features = record.features
    decision = record.decision
    attributes: dict[str, Attribute] = {
        "gen_ai.operation.name": inbound.path.operation,
        "gen_ai.provider.name": "vllm",
        "http.request.method": "POST",
        "url.path": inbound.path.path,
        "http.response.status_code": record.status,
        "llm.request_id": record.request_id,
        "llm.outcome": record.outcome or "",
        "llm.verdict": record.verdict,
        "llm.config_hash": record.config_hash,
    }
    if features is not None:
        attributes["gen_ai.request.model"] = features.model[:128]
        attributes["llm.stream"] = features.stream
        attributes["llm.prompt_chars"] = features.prompt_chars
        if features.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = features.max_tokens
    if decision is not None:
        attributes["llm.pool"] = decision.pool
        attributes["llm.rule"] = decision.rule_name
        attributes["llm.policy"] = decision.policy
        attributes["llm.reason"] = decision.reason
        attributes["llm.backend"] = decision.chosen.name if decision.chosen is not None else ""
    return attributes


def _measured_attributes(record: DecisionRecord) -> dict[str, Attribute]:
    """Return token counts and the parts of the time to first token; unknown values are left out."""
    attributes: dict[str, Attribute] = {}
    if record.tokens_prompt is not None:
        attributes["gen_ai.usage.input_tokens"] = record.tokens_prompt
    if record.tokens_completion is not None:
        attributes["gen_ai.usage.output_tokens"] = record.tokens_completion
    if record.tokens_cached is not None:
        attributes["gen_ai.usage.cache_read.input_tokens"] = record.tokens_cached
    if record.first_answer_ms is not None:
        attributes["llm.first_answer_ms"] = round(record.first_answer_ms, 3)
    if record.first_token_ms is not None:
        attributes["llm.first_token_ms"] = round(record.first_token_ms, 3)
    for part, value in record.ledger.items():
        if value is not None:
            attributes[f"llm.ttft_ledger_ms.{part}"] = round(value, 3)
    return attributes


def _add_attempts(span: FinishedSpan, record: DecisionRecord, began: float) -> None:
    """Add one child span per attempt. Each begins at the end of the previous one, the first at ``began`` (epoch
    seconds).
    """
    at = began
    for number, attempt in enumerate(record.attempts, start=1):
        took = ((attempt.connect_ms or 0.0) + (attempt.first_byte_ms or 0.0)) / 1e3
        stop = span.end if number == len(record.attempts) else min(span.end, at + took)
        complete = attempt.outcome == "complete"
        span.children.append(
            FinishedSpan(
                name=f"attempt {attempt.backend}",
                trace_id=span.trace_id,
                span_id=f"{(int(span.span_id, 16) + number) % (1 << 64) or 1:016x}",
                parent_span_id=span.span_id,
                start=at,
                end=stop,
                attributes={
                    "llm.backend": attempt.backend,
                    "llm.attempt": number,
                    "llm.attempt_outcome": attempt.outcome,
                    "http.response.status_code": attempt.status,
                },
                server=False,
                error="" if complete else attempt.detail or attempt.outcome,
            )
        )
        at = stop
