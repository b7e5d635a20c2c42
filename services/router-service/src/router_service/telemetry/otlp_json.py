"""Sends spans as OTLP over HTTP in the JSON encoding. Runs in the batching processor's thread.

The protobuf exporter cannot be used: `xds-protos`, which the edge needs in the same environment, ships an old copy of
the `opentelemetry.proto` package and breaks the exporter.
"""

import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import orjson
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

_KINDS = {SpanKind.INTERNAL: 1, SpanKind.SERVER: 2, SpanKind.CLIENT: 3}
_NO_PROXY = urllib.request.ProxyHandler({})


class OtlpJsonExporter(SpanExporter):
    """Posts to ``endpoint`` (a collector's base URL); ``timeout_seconds`` bounds one batch."""

    def __init__(self, endpoint: str, timeout_seconds: float = 5.0) -> None:
        self._url = endpoint.rstrip("/") + "/v1/traces"
        self._timeout_seconds = timeout_seconds
        self._opener = urllib.request.build_opener(_NO_PROXY)
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch. If the collector is down or refuses, these spans are lost and no request is affected."""
        request = urllib.request.Request(
            self._url, orjson.dumps(encode(spans)), {"content-type": "application/json"}, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self._timeout_seconds):
                return SpanExportResult.SUCCESS
        except (urllib.error.URLError, OSError):
            self.failed += len(spans)
            return SpanExportResult.FAILURE


def encode(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """Return the request body for ``spans``, which share one resource and one scope."""
    first = spans[0]
    scope = first.instrumentation_scope
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(first.resource.attributes)},
                "scopeSpans": [
                    {
                        "scope": {"name": scope.name if scope is not None else ""},
                        "spans": [_span(span) for span in spans],
                    }
                ],
            }
        ]
    }


def _span(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None
    found: dict[str, Any] = {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "name": span.name,
        "kind": _KINDS.get(span.kind, 1),
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _attributes(span.attributes or {}),
        "status": {},
    }
    if span.parent is not None:
        found["parentSpanId"] = f"{span.parent.span_id:016x}"
    if span.status.status_code is StatusCode.ERROR:
        found["status"] = {"code": 2, "message": span.status.description or ""}
    return found


def _attributes(attributes: Any) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    return {"arrayValue": {"values": [_value(item) for item in value]}}
