"""The only home of the router's metric names, labels, buckets and log fields; holds no values.

`docs/metrics.md`, dashboards and alerts are generated from, or checked against, this table.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; what bounds its labels is in :data:`LABELS`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOTAL = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
_SHORT = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)
_LAG = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_COMPONENT = (0.0, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
              30.0, 60.0)  # fmt: skip

REQUESTS = Metric(
    "router_requests_total",
    "counter",
    "Requests finished, refused and failed ones too.",
    ("pool", "backend", "rule", "reason", "outcome"),
)
IN_FLIGHT = Metric(
    "router_in_flight", "gauge", "Requests a backend is working on for this router.", ("backend",)
)
QUEUE_LENGTH = Metric("router_queue_length", "gauge", "Requests waiting for a free backend.", ("pool",))
USABLE_BACKENDS = Metric("router_usable_backends", "gauge", "Backends a request could go to now.", ("pool",))
ATTEMPTS = Metric(
    "router_attempts_total", "counter", "Calls to backends by how they ended.", ("backend", "outcome")
)
RETRIES = Metric(
    "router_retries_total", "counter", "Attempts after the first of a request.", ("pool", "reason")
)
RETRY_BUDGET = Metric("router_retry_budget_remaining", "gauge", "Retries the budget would allow now.")
RESUMES = Metric(
    "router_stream_resumes_total", "counter", "Streams continued on another backend.", ("pool", "result")
)
STALE = Metric(
    "router_stale_connections_total",
    "counter",
    "Kept-alive connections found closed by the backend and dialled again.",
    ("backend",),
)
UPSTREAM_CONNECTIONS = Metric(
    "router_upstream_connections", "gauge", "Open connections to backends, idle ones too."
)
TTFT = Metric(
    "router_ttft_seconds",
    "histogram",
    "Time to first token of streams, from the edge's first byte to the router's first body byte.",
    ("pool",),
    _LATENCY,
)
TTFT_COMPONENT = Metric(
    "router_ttft_component_seconds",
    "histogram",
    "Parts of the time to first token; `unexplained` is signed.",
    ("component", "pool"),
    _COMPONENT,
)
TTFT_SUM_BY = Metric(
    "router_ttft_component_seconds_sum_by",
    "counter",
    "Seconds of time to first token by part; divided by router_first_tokens_total it is a mean.",
    ("component", "pool", "backend", "rule", "prompt_bucket", "affinity", "slow"),
)
FIRST_TOKENS = Metric(
    "router_first_tokens_total",
    "counter",
    "Streams that reached their first token. slow=true: later than the objective.",
    ("pool", "backend", "rule", "prompt_bucket", "affinity", "slow"),
)
DECIDE = Metric("router_decide_seconds", "histogram", "Time to choose a backend.", (), _SHORT)
LOOP_LAG = Metric(
    "router_event_loop_lag_seconds", "histogram", "How late the event loop runs a timer.", (), _LAG
)
TOKENS = Metric(
    "router_tokens_total", "counter", "Tokens by kind (prompt, completion).", ("pool", "backend", "kind")
)
CONFIG_INFO = Metric("router_config_info", "gauge", "1 for the configuration in use.", ("hash",))
CONFIG_RELOADED = Metric(
    "router_config_last_reload_successful", "gauge", "0 while the files on disk are refused."
)
AFFINITY_UP = Metric("router_affinity_store_up", "gauge", "0 while session pins cannot be shared.")
HINTS = Metric(
    "router_probe_hints_total",
    "counter",
    "Backends found bad and told to other replicas, or heard from them and probed.",
    ("direction",),
)
BREAKER_OPEN = Metric(
    "router_breaker_open", "gauge", "1 while the breaker keeps requests from a backend.", ("backend",)
)
BACKEND_USABLE = Metric(
    "router_backend_usable", "gauge", "1 while this router would send requests there.", ("backend",)
)
ROUND_TRIP = Metric(
    "router_backend_round_trip_seconds",
    "gauge",
    "How long a packet to a backend and its answer take, by the kernel's own measure of a handshake.",
    ("backend",),
)
SEGMENTS = Metric(
    "router_backend_tcp_segments_total",
    "counter",
    "TCP segments with data between router and backend; repaired=true: sent again, or received behind a gap.",
    ("backend", "repaired"),
)
DISCOVERY_UP = Metric(
    "router_discovery_up",
    "gauge",
    "0 while a pool's backends cannot be listed; the last list stays.",
    ("pool",),
)
TIME = Metric("router_time_seconds", "gauge", "The router's wall clock, to be compared with others.")
LOG_DROPPED = Metric(
    "router_log_lines_dropped_total", "counter", "Log lines given up: the writer was too slow."
)
SPANS_DROPPED = Metric(
    "router_spans_dropped_total", "counter", "Spans given up: the collector did not take them."
)
GENAI_DURATION = Metric(
    "gen_ai_server_request_duration_seconds",
    "histogram",
    "Duration of a request, as the GenAI semantic conventions name it.",
    ("gen_ai_operation_name", "gen_ai_request_model", "error_type"),
    _TOTAL,
)
GENAI_TTFT = Metric(
    "gen_ai_server_time_to_first_token_seconds",
    "histogram",
    "Time to first token, as the GenAI semantic conventions name it.",
    ("gen_ai_operation_name", "gen_ai_request_model"),
    _LATENCY,
)
GENAI_PER_TOKEN = Metric(
    "gen_ai_server_time_per_output_token_seconds",
    "histogram",
    "Time per output token after the first.",
    ("gen_ai_operation_name", "gen_ai_request_model"),
    _PER_TOKEN,
)
GENAI_TOKENS = Metric(
    "gen_ai_client_token_usage",
    "histogram",
    "Tokens of a request by type.",
    ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_token_type"),
    (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0),
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""Every metric of the router, in the order of this file."""

LABELS: dict[str, str] = {
    "pool": "as configured, or empty",
    "backend": "as configured or discovered; series of a vanished backend are removed",
    "rule": "as configured, `default`, or empty",
    "reason": "closed list: why this backend",
    "outcome": "closed list: how it ended",
    "component": "parts of the time to first token, a closed list",
    "prompt_bucket": "size of the prompt in characters, five ranges",
    "affinity": "off, placed, kept, broken: what session affinity did",
    "slow": "true, false",
    "repaired": "true, false",
    "result": "ok, failed",
    "kind": "prompt, completion",
    "hash": "one at a time",
    "direction": "told, heard",
    "gen_ai_operation_name": "one per path",
    "gen_ai_request_model": "configured names and aliases; anything else is `other`",
    "gen_ai_token_type": "input, output",
    "error_type": "empty when the request went well, else the outcome",
}
"""Every label and what bounds its values."""

PROMPT_BUCKETS = ((500, "0-500"), (2000, "500-2k"), (8000, "2k-8k"), (32000, "8k-32k"))
PROMPT_BUCKET_LAST = "32k+"

LOG_FIELDS: dict[str, str] = {
    "time": "RFC 3339, UTC",
    "level": "info, warning, error",
    "service": "always `router-service`",
    "event": "what happened; `request` for the one line of every request",
    "request_id": "the id every layer uses",
    "trace_id": "W3C trace id",
}
"""Fields of every log line; the line of a request also has all fields of its decision record."""

RECORD_FIELDS: dict[str, str] = {
    "request_id": "the id every layer uses",
    "time": "when the router received it, RFC 3339, UTC",
    "client_id": "who asked, as the edge authenticated it",
    "config_hash": "the configuration that decided",
    "path": "the path asked",
    "model": "the model asked for",
    "stream": "whether a stream was asked for",
    "features": "what rules look at: prompt_chars, max_tokens, ...; no text",
    "conditions": "truth of every text condition, by its hash",
    "rule": "the rule that matched, or `default`",
    "passed_over": "rules that matched and whose pools do not serve the model",
    "first_pool": "the pool of that rule",
    "pool": "the pool that took it (another one: a fallback)",
    "policy": "how a backend was chosen inside the pool",
    "reason": "why the chosen backend: a closed list",
    "candidates": "backends considered: eligible or rejected_because, in_flight, limit, score",
    "candidates_total": "how many were considered",
    "snapshot": "what the decision read besides: round-robin position, pin",
    "affinity": "state: off, placed, kept, broken",
    "chosen": "the backend it went to",
    "queue_position": "how many waited before it; null when it did not wait",
    "attempts": "calls to backends: backend, outcome, status, connect_ms, first_byte_ms, detail",
    "ttft_ledger_ms": "parts of the time to first token; `unexplained` is signed",
    "decide_ms": "time to decide",
    "first_token_ms": "from the edge's first byte to the first body byte; what the ledger adds up to",
    "decode_ms": "from the engine's first byte to its last",
    "total_ms": "from receipt to the end",
    "tokens": "prompt and completion, as the engine counted them",
    "status": "HTTP status of the answer",
    "outcome": "how it ended: a closed list",
    "verdict": "the layer that owns the largest excess over the pool's usual: routing, execution, capacity, none",
    "trace_id": "W3C trace id",
    "edge_skewed": "true where the edge's clock and the router's disagree",
    "detail": "what went wrong, in words",
}
"""Fields of a decision record, in the log line of a request and at `/debug/decisions/{request_id}`."""

SPAN_ATTRIBUTES: dict[str, str] = {
    "gen_ai.operation.name": "chat, text_completion, embeddings, ...",
    "gen_ai.provider.name": "always `vllm`",
    "gen_ai.request.model": "the model asked for",
    "gen_ai.request.max_tokens": "the limit asked for",
    "gen_ai.usage.input_tokens": "prompt tokens, as the engine counted them",
    "gen_ai.usage.output_tokens": "completion tokens, as the engine counted them",
    "http.request.method": "always POST",
    "url.path": "the path asked",
    "http.response.status_code": "of the answer; on an attempt: of the backend",
    "error.type": "the outcome, where it is a failure",
    "llm.request_id": "the id every layer uses",
    "llm.outcome": "how it ended",
    "llm.verdict": "the layer that owns the largest excess",
    "llm.config_hash": "the configuration that decided",
    "llm.stream": "whether a stream was asked for",
    "llm.prompt_chars": "size of the prompt",
    "llm.pool": "the pool that took it",
    "llm.rule": "the rule that matched",
    "llm.policy": "how a backend was chosen",
    "llm.reason": "why that backend",
    "llm.backend": "the backend; on an attempt: that attempt's",
    "llm.first_token_ms": "time to first token",
    "llm.ttft_ledger_ms.*": "one attribute for each part of the ledger",
    "llm.attempt": "number of the attempt, from 1 (spans of attempts only)",
    "llm.attempt_outcome": "how the attempt ended (spans of attempts only)",
}
"""Attributes of the router's spans: the current GenAI names of OpenTelemetry's conventions, `llm.` for what these lack."""


def prompt_bucket(prompt_chars: int) -> str:
    """The label value for a prompt of ``prompt_chars`` characters."""
    for limit, name in PROMPT_BUCKETS:
        if prompt_chars < limit:
            return name
    return PROMPT_BUCKET_LAST
