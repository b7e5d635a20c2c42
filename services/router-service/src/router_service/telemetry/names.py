"""The only definition of the router's metric names, labels, buckets and log fields. Holds no values.

`docs/metrics.md`, dashboards and alerts are generated from, or checked against, this table.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; :data:`LABELS` documents how many values each label can have."""

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
    "Finished requests, including refused and failed ones.",
    ("pool", "rule", "reason", "outcome"),
)
BACKEND_REQUESTS = Metric(
    "router_backend_requests_total",
    "counter",
    "Finished requests by the backend that was chosen last.",
    ("pool", "backend"),
)
IN_FLIGHT = Metric(
    "router_in_flight", "gauge", "Requests of this router that a backend is working on.", ("backend",)
)
QUEUE_LENGTH = Metric("router_queue_length", "gauge", "Requests waiting for a free backend.", ("pool",))
CLASS_WAITING = Metric(
    "router_class_waiting", "gauge", "Requests of a class that wait for a free backend.", ("pool", "class")
)
CLASS_RUNNING = Metric(
    "router_class_running", "gauge", "Requests of a class that have a slot of the pool.", ("pool", "class")
)
CLASS_STARTED = Metric(
    "router_class_started_total",
    "counter",
    "Requests of a class that were sent to the pool.",
    ("pool", "class"),
)
CLASS_QUEUE_SECONDS = Metric(
    "router_class_queue_seconds_total",
    "counter",
    "Time that finished requests of a class waited for a free backend.",
    ("pool", "class"),
)
USABLE_BACKENDS = Metric("router_usable_backends", "gauge", "Backends that can accept requests.", ("pool",))
ATTEMPTS = Metric("router_attempts_total", "counter", "Calls to backends by outcome.", ("pool", "outcome"))
FAILED_ATTEMPTS = Metric(
    "router_backend_failed_attempts_total",
    "counter",
    "Failed calls to a backend. A series begins with the backend's first failure.",
    ("backend",),
)
RETRIES = Metric(
    "router_retries_total", "counter", "Attempts of a request after its first.", ("pool", "reason")
)
RETRY_BUDGET = Metric("router_retry_budget_remaining", "gauge", "Retries that the budget currently allows.")
RESUMES = Metric(
    "router_stream_resumes_total", "counter", "Streams continued on another backend.", ("pool", "result")
)
STALE = Metric(
    "router_stale_connections_total",
    "counter",
    "Kept-alive connections that the backend had closed, and that were replaced.",
    ("pool",),
)
UPSTREAM_CONNECTIONS = Metric(
    "router_upstream_connections", "gauge", "Open connections to backends, including idle ones."
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
    "Sum of the time to first token by part, in seconds; divide by router_first_tokens_total for the mean.",
    ("component", "pool", "rule", "prompt_bucket", "affinity", "slow"),
)
FIRST_TOKENS = Metric(
    "router_first_tokens_total",
    "counter",
    "Streams that reached their first token. slow=true: the first token came after the objective.",
    ("pool", "rule", "prompt_bucket", "affinity", "slow"),
)
BACKEND_FIRST_TOKENS = Metric(
    "router_backend_first_tokens_total",
    "counter",
    "Streams of a backend that reached their first token.",
    ("pool", "backend"),
)
BACKEND_TTFT = Metric(
    "router_backend_ttft_seconds_total",
    "counter",
    "Sum of the time to first token of a backend's streams; divide by router_backend_first_tokens_total for the mean.",
    ("pool", "backend"),
)
FIRST_ANSWER = Metric(
    "router_first_answer_seconds",
    "histogram",
    "Time to the first token after the reasoning, in streams.",
    ("pool",),
    _LATENCY,
)
THINKING = Metric(
    "router_thinking_seconds_total",
    "counter",
    "Time from the first token to the first token of the answer, in streams with reasoning.",
    ("pool", "rule", "prompt_bucket", "affinity", "slow"),
)
EXPECTED_CACHE = Metric(
    "router_expected_cache_tokens_total",
    "counter",
    "Prompt tokens of streams at a backend that served the session or prefix before: all, and the cached ones.",
    ("pool", "kind"),
)
CHANGES = Metric(
    "router_changes_total",
    "counter",
    "Changes that this router noticed, each with a log line `change`: configuration, backends, breakers, affinity store.",
    ("kind",),
)
CHANGE_TIME = Metric(
    "router_change_time_seconds",
    "gauge",
    "When this router last noticed such a change, in seconds since the epoch. A series lasts ten minutes.",
    ("kind", "pool", "backend", "after"),
)
RULE_INFO = Metric(
    "router_rule_info", "gauge", "1 for each rule in use; `hash` changes with the rule.", ("rule", "hash")
)
DECIDE = Metric("router_decide_seconds", "histogram", "Time to choose a backend.", (), _SHORT)
LOOP_LAG = Metric(
    "router_event_loop_lag_seconds", "histogram", "Delay of a timer on the event loop.", (), _LAG
)
TOKENS = Metric(
    "router_tokens_total",
    "counter",
    "Tokens by kind: prompt, completion; cached is a part of prompt, reasoning a part of completion.",
    ("pool", "kind"),
)
CONFIG_INFO = Metric("router_config_info", "gauge", "1 for the configuration in use.", ("hash",))
CONFIG_RELOADED = Metric(
    "router_config_last_reload_successful",
    "gauge",
    "1 if the configuration on disk is valid, 0 while it is refused.",
)
AFFINITY_UP = Metric(
    "router_affinity_store_up",
    "gauge",
    "1 while session pins can be shared between replicas, 0 while the store fails.",
)
HINTS = Metric(
    "router_probe_hints_total",
    "counter",
    "Hints about failing backends: sent to other replicas, or received from them and probed.",
    ("direction",),
)
SETTLEMENTS = Metric(
    "router_budget_settlements_total",
    "counter",
    "Reservations of cut-off answers settled at the rate limit service, by outcome (settled, failed, dropped).",
    ("outcome",),
)
REJECTED = Metric(
    "router_backend_rejected",
    "gauge",
    "1 while this router sends a backend no requests, by its health or breaker; no series otherwise.",
    ("pool", "backend", "because"),
)
FAR_SECONDS = 0.005
ROUND_TRIP = Metric(
    "router_backend_round_trip_seconds",
    "gauge",
    f"Network round-trip time to a backend (TCP handshake). Only of backends at least {FAR_SECONDS * 1e3:g} ms away.",
    ("pool", "backend"),
)
SEGMENTS = Metric(
    "router_tcp_segments_total",
    "counter",
    "TCP data segments between this router and its backends.",
    ("pool",),
)
REPAIRED = Metric(
    "router_backend_tcp_repaired_total",
    "counter",
    "TCP data segments of a backend that were retransmitted, or received out of order. A series begins with the first.",
    ("pool", "backend"),
)
DISCOVERY_UP = Metric(
    "router_discovery_up",
    "gauge",
    "1 while a pool's backends can be listed; 0 while they cannot (the last list stays in use).",
    ("pool",),
)
TIME = Metric("router_time_seconds", "gauge", "The router's wall clock, for comparison with other clocks.")
LOG_DROPPED = Metric(
    "router_log_lines_dropped_total", "counter", "Log lines dropped because the writer was too slow."
)
SPANS_DROPPED = Metric(
    "router_spans_dropped_total", "counter", "Spans dropped because the collector did not accept them."
)
GENAI_DURATION = Metric(
    "gen_ai_server_request_duration_seconds",
    "histogram",
    "Duration of a request (GenAI semantic conventions).",
    ("gen_ai_operation_name", "gen_ai_request_model", "error_type"),
    _TOTAL,
)
GENAI_TTFT = Metric(
    "gen_ai_server_time_to_first_token_seconds",
    "histogram",
    "Time to first token (GenAI semantic conventions).",
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
    "backend": "as configured or discovered; series of a removed backend are deleted",
    "rule": "as configured, `default`, or empty",
    "reason": "closed list: why this backend was chosen",
    "outcome": "closed list: how the request or attempt ended",
    "component": "parts of the time to first token, a closed list",
    "prompt_bucket": "size of the prompt in characters, five ranges",
    "affinity": "session: off, placed, kept, broken; without one, prefix: prefix_new, prefix_kept, prefix_moved",
    "slow": "true, false",
    "because": "closed list: why decisions reject the backend",
    "result": "ok, failed",
    "kind": "closed lists: of tokens, of changes",
    "hash": "one at a time, of the configuration or of a rule",
    "after": "closed lists: state of the backend, breaker or store; of a configuration its hash",
    "direction": "told (sent), heard (received)",
    "gen_ai_operation_name": "one per path",
    "gen_ai_request_model": "configured names and aliases; anything else is `other`",
    "gen_ai_token_type": "input, output",
    "error_type": "empty if the request succeeded, else the outcome",
}
"""Every label, with what limits its values."""

PROMPT_BUCKETS = ((500, "0-500"), (2000, "500-2k"), (8000, "2k-8k"), (32000, "8k-32k"))
PROMPT_BUCKET_LAST = "32k+"

LOG_FIELDS: dict[str, str] = {
    "time": "RFC 3339, UTC",
    "level": "info, warning, error",
    "service": "always `router-service`",
    "event": "what happened; `request` for the line that each request writes",
    "request_id": "the id that every component uses",
    "trace_id": "W3C trace id",
}
"""Fields of every log line; the line of a request also has all fields of its decision record."""

CHANGE_FIELDS: dict[str, str] = {
    "kind": "routers: configuration, backend_joined, backend_left, backend_state, breaker, affinity_store; agents: "
    "engine_start, engine_version; edges: edge_routes",
    "pool": "the pool, if the change is of one",
    "backend": "the backend, if the change is of one",
    "before": "the value before: a state, a configuration's hash, a version",
    "after": "the value after",
    "reason": "why an engine was started, or what a route table contains",
    "rules_added": "names of the rules, as `rules_removed` and `rules_changed`",
}
"""Fields of the log line of a change, whose `event` is `change`."""

RECORD_FIELDS: dict[str, str] = {
    "request_id": "the id that every component uses",
    "time": "when the router received the request, RFC 3339, UTC",
    "client_id": "the client, as the edge authenticated it",
    "replica": "the router replica that handled the request",
    "config_hash": "hash of the configuration that decided",
    "path": "the requested path",
    "model": "the requested model",
    "stream": "whether the client requested a stream",
    "features": "request features that rules test: prompt_chars, max_tokens, ...; no text",
    "conditions": "result of every text condition, by the condition's hash",
    "rule": "the rule that matched, or `default`",
    "passed_over": "rules that matched but whose pools do not serve the model",
    "first_pool": "the pool of that rule",
    "pool": "the pool that served the request; differs from `first_pool` after a fallback",
    "policy": "the policy that chose a backend in the pool",
    "reason": "why the backend was chosen: a closed list",
    "candidates": "considered backends: eligible or rejected_because, in_flight, limit, score; of a large pool the "
    "best ones, and some of each reason",
    "candidates_total": "number of considered backends",
    "rejected": "number of rejected backends, by pool and reason",
    "snapshot": "other inputs of the decision: round-robin position, pin; `home`: the pool of the backend "
    "that has the previous response",
    "affinity": "state of session affinity: off, placed, kept, broken; `prefix`: whether the backend had served the "
    "same beginning of a prompt before (kept), only others had (moved), or none (new)",
    "chosen": "the chosen backend",
    "queue_position": "number of requests ahead in the queue; null if the request did not wait",
    "class": "class of the request, if classes are configured",
    "went_ahead": "number of requests of each class that were sent to the pool while this one waited",
    "attempts": "calls to backends: backend, outcome, status, connect_ms, first_byte_ms, detail",
    "ttft_ledger_ms": "parts of the time to first token; `unexplained` is signed",
    "decide_ms": "time to decide",
    "first_token_ms": "from the edge's first byte to the first body byte; the sum of the ledger",
    "first_answer_ms": "until the first token after the reasoning",
    "decode_ms": "from the engine's first byte to its last",
    "total_ms": "from receipt to the end",
    "tokens": "prompt and completion, and their parts cached (prompt) and reasoning (completion), counted by the engine",
    "status": "HTTP status of the response",
    "outcome": "how the request ended: a closed list",
    "verdict": "the layer with the largest excess over the pool's usual time: routing, execution, capacity, none",
    "trace_id": "W3C trace id",
    "edge_attempt": "the edge's attempt number, if another router did not answer the first attempt",
    "edge_skewed": "true if the edge's clock and the router's disagree",
    "detail": "description of the failure",
}
"""Fields of a decision record, in the log line of a request and at `/debug/decisions/{request_id}`."""

SPAN_ATTRIBUTES: dict[str, str] = {
    "gen_ai.operation.name": "chat, text_completion, embeddings, ...",
    "gen_ai.provider.name": "always `vllm`",
    "gen_ai.request.model": "the requested model",
    "gen_ai.request.max_tokens": "the requested limit",
    "gen_ai.usage.input_tokens": "prompt tokens, as the engine counted them",
    "gen_ai.usage.output_tokens": "completion tokens, as the engine counted them",
    "gen_ai.usage.cache_read.input_tokens": "prompt tokens that came from the prefix cache",
    "http.request.method": "always POST",
    "url.path": "the requested path",
    "http.response.status_code": "HTTP status of the response; on an attempt: of the backend's response",
    "error.type": "the outcome, if it is a failure",
    "llm.request_id": "the id that every component uses",
    "llm.outcome": "how the request ended",
    "llm.verdict": "the layer with the largest excess",
    "llm.config_hash": "hash of the configuration that decided",
    "llm.stream": "whether the client requested a stream",
    "llm.prompt_chars": "size of the prompt",
    "llm.pool": "the pool that served the request",
    "llm.rule": "the rule that matched",
    "llm.policy": "the policy that chose the backend",
    "llm.reason": "why the backend was chosen",
    "llm.backend": "the backend; on an attempt: the attempt's backend",
    "llm.first_token_ms": "time to first token",
    "llm.first_answer_ms": "time to the first token after the reasoning",
    "llm.ttft_ledger_ms.*": "one attribute for each part of the ledger",
    "llm.attempt": "number of the attempt, from 1 (spans of attempts only)",
    "llm.attempt_outcome": "how the attempt ended (spans of attempts only)",
}
"""Attributes of the router's spans: OpenTelemetry's GenAI names, and `llm.` names where the conventions have none."""


def prompt_bucket(prompt_chars: int) -> str:
    """Return the label value for a prompt of ``prompt_chars`` characters."""
    for limit, name in PROMPT_BUCKETS:
        if prompt_chars < limit:
            return name
    return PROMPT_BUCKET_LAST
