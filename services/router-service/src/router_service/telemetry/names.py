"""The only definition of the router's metric names, labels and buckets. Holds no values.

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
HELD = Metric(
    "router_held_requests",
    "gauge",
    "Requests waiting for an engine to start. Only of pools with `when_none_ready`.",
    ("pool",),
)
HOLDS = Metric(
    "router_holds_total",
    "counter",
    "Requests that found no ready engine in a pool with `when_none_ready`, by how their wait ended.",
    ("pool", "end"),
)
START_SECONDS = Metric(
    "router_start_seconds",
    "gauge",
    "Duration of the last start of a pool's first engine: from the first waiting request until ready, else as an agent "
    "reported it. Only of pools with `when_none_ready`.",
    ("pool",),
)
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
    "Changes that this router noticed, each with a log line `change`: configuration, rollouts, backends, breakers, "
    "affinity store.",
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
ROLLOUT_PERCENT = Metric(
    "router_rollout_percent",
    "gauge",
    "Percent of a rule's requests that its rollout sends to the new pool. Only of rules with `rollout`.",
    ("rule", "pool"),
)
ROLLOUT_STATE = Metric(
    "router_rollout_state",
    "gauge",
    "1 for the state of a rollout: advancing, went_back, done, or not_started while the weights file does not have it.",
    ("rule", "state"),
)
ROLLOUT_DECIDED = Metric(
    "router_rollout_last_decision_time_seconds",
    "gauge",
    "When the controller last decided about a rollout, in seconds since the epoch, with its action and reason.",
    ("rule", "action", "reason"),
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
SHADOW_REQUESTS = Metric(
    "router_shadow_requests_total",
    "counter",
    "Finished copies of requests (`shadow` of a rule) by how they ended. No other metric of requests counts copies.",
    ("pool", "outcome"),
)
SHADOW_LEFT_OUT = Metric(
    "router_shadow_left_out_total",
    "counter",
    "Requests that a shadow takes and that were not copied, by the reason.",
    ("pool", "because"),
)
SHADOW_TTFT = Metric(
    "router_shadow_ttft_seconds",
    "histogram",
    "Time to first token of copied streams, from the copy's start in the router.",
    ("pool",),
    _LATENCY,
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
    "reason": "closed lists: why this backend was chosen; why a rollout advanced, holds or went back",
    "outcome": "closed list: how the request or attempt ended",
    "component": "parts of the time to first token, a closed list",
    "end": "started, full, expired, client_left, stopped",
    "prompt_bucket": "size of the prompt in characters, five ranges",
    "affinity": "session: off, placed, kept, broken; without one, prefix: prefix_new, prefix_kept, prefix_moved",
    "slow": "true, false",
    "because": "closed lists: why decisions reject the backend, why a request was not copied",
    "result": "ok, failed",
    "kind": "closed lists: of tokens, of changes",
    "hash": "one at a time, of the configuration or of a rule",
    "after": "closed lists: state of the backend, breaker or store; of a configuration its hash, of a rollout its percent",
    "state": "advancing, went_back, done, not_started",
    "action": "start, advance, hold, back, finish",
    "direction": "told (sent), heard (received)",
    "gen_ai_operation_name": "one per path",
    "gen_ai_request_model": "configured names and aliases; anything else is `other`",
    "gen_ai_token_type": "input, output",
    "error_type": "empty if the request succeeded, else the outcome",
}
"""Every label, with what limits its values."""

PROMPT_BUCKETS = ((500, "0-500"), (2000, "500-2k"), (8000, "2k-8k"), (32000, "8k-32k"))
PROMPT_BUCKET_LAST = "32k+"


def prompt_bucket(prompt_chars: int) -> str:
    """Return the label value for a prompt of ``prompt_chars`` characters."""
    for limit, name in PROMPT_BUCKETS:
        if prompt_chars < limit:
            return name
    return PROMPT_BUCKET_LAST
