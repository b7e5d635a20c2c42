"""Builds finished spans and passes them to OpenTelemetry's batching exporter. Makes no sampling decision.

A span is built from the record after the request has ended. The hot path therefore carries no span objects, and an
unsampled request that turns out slow or failed can still be exported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

Attribute = str | int | float | bool | Sequence[str]

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


@dataclass(slots=True)
class FinishedSpan:
    """One span with its children. Times are epoch seconds; ``error`` is empty on success."""

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str
    start: float
    end: float
    attributes: Mapping[str, Attribute]
    server: bool = True
    error: str = ""
    children: list["FinishedSpan"] = field(default_factory=list)


class SpanSink:
    """Destination of finished spans. If ``exporter`` is None, spans are neither built nor sent."""

    def __init__(self, exporter: SpanExporter | None, service: str = "router-service") -> None:
        self._processor = BatchSpanProcessor(exporter) if exporter is not None else None
        self._resource = Resource.create({"service.name": service})
        self._scope = InstrumentationScope("router_service")

    @property
    def enabled(self) -> bool:
        """False if there is no exporter: callers then build no spans."""
        return self._processor is not None

    def export(self, span: FinishedSpan) -> None:
        """Queue ``span`` and its children. Never waits; drops spans when the queue is full."""
        if self._processor is None:
            return
        self._processor.on_end(
            ReadableSpan(
                name=span.name,
                context=_context(span.trace_id, span.span_id, remote=False),
                parent=_context(span.trace_id, span.parent_span_id, remote=True)
                if span.parent_span_id
                else None,
                resource=self._resource,
                attributes=dict(span.attributes),
                kind=SpanKind.SERVER if span.server else SpanKind.CLIENT,
                instrumentation_scope=self._scope,
                status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
                start_time=int(span.start * 1e9),
                end_time=int(span.end * 1e9),
            )
        )
        for child in span.children:
            self.export(child)

    def close(self) -> None:
        """Export the queued spans and stop."""
        if self._processor is not None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]


def _context(trace_id: str, span_id: str, *, remote: bool) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=remote, trace_flags=_SAMPLED)
