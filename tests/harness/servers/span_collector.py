"""A span collector for tests: receives OTLP over gRPC and over HTTP with JSON, and stores the spans. Forwards nothing."""

import base64
import gzip
import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import grpc  # type: ignore[import-untyped]
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Times are epoch seconds; ``parent`` is empty for the root span."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent: str
    start: float
    end: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False


class SpanReceiver:
    """Listens on two free loopback ports until the block ends."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if "json" in self.headers.get("content-type", ""):
                    receiver.take(json.loads(body), hexadecimal=True)
                else:
                    receiver.take(_as_dict(ExportTraceServiceRequest.FromString(body)), hexadecimal=False)
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http_port = self._http.server_port
        self._grpc = grpc.server(ThreadPoolExecutor(2))
        self.grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        handler = grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=ExportTraceServiceRequest.FromString,
            response_serializer=ExportTraceServiceResponse.SerializeToString,
        )
        service, method = EXPORT.strip("/").split("/")
        self._grpc.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self._grpc.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(None)

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of one trace received so far."""
        with self._lock:
            return [span for span in self.spans if span.trace_id == trace_id]

    def take(self, document: Mapping[str, Any], *, hexadecimal: bool) -> None:
        """Store the spans of one export request. Ids are hexadecimal in OTLP's JSON, base64 in protobuf's."""
        for resource in document.get("resourceSpans", []):
            service = _values(resource["resource"].get("attributes", [])).get("service.name", "")
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    with self._lock:
                        self.spans.append(_span(service, span, hexadecimal))

    def _export(self, request: Any, context: object) -> Any:
        self.take(_as_dict(request), hexadecimal=False)
        return ExportTraceServiceResponse()


def _as_dict(request: Any) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(request)
    return found


def _span(service: str, span: Mapping[str, Any], hexadecimal: bool) -> Span:
    def identity(name: str) -> str:
        value = str(span.get(name, ""))
        return value if hexadecimal else base64.b64decode(value).hex()

    return Span(
        service,
        span["name"],
        identity("traceId"),
        identity("spanId"),
        identity("parentSpanId"),
        int(span["startTimeUnixNano"]) / 1e9,
        int(span["endTimeUnixNano"]) / 1e9,
        _values(span.get("attributes", [])),
        span.get("status", {}).get("code") in (2, "STATUS_CODE_ERROR"),
    )


def _values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in attributes:
        (kind, value), *_ = attribute["value"].items() or [("stringValue", "")]
        found[attribute["key"]] = int(value) if kind == "intValue" else value
    return found
