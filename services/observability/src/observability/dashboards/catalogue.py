"""The catalogue of dashboards: panels, queries and units. Independent of Grafana and of the HTML renderer."""

from observability.dashboards.panels import (
    REQUEST_ID,
    WINDOW,
    Dashboard,
    Panel,
    Query,
    mean_by,
    one,
    quantiles,
)
from observability.dashboards.safe_change import SAFE_CHANGE

_LEDGER = one(
    "Time to first token by component (mean)",
    "s",
    f"sum by (component) (rate(router_ttft_component_seconds_sum_by[{WINDOW}]))"
    f" / on () group_left () (sum(rate(router_first_tokens_total[{WINDOW}])) > 0)",
    "{component}",
    "stacked",
    "Means (sums over counts) add up to the total. Quantiles would not.",
)
_STATES = one("Backend states", "", "max by (backend, state) (backend_state) == 1", "{backend}", "states")

DASHBOARDS: tuple[Dashboard, ...] = (
    Dashboard(
        "llm-overview",
        "Overview",
        "Is the platform healthy, and if not, which layer is the cause?",
        (
            one(
                "Bottleneck of each pool",
                "",
                "max by (pool, verdict) (pool:bottleneck:verdict) == 1",
                "{pool}",
                "states",
            ),
            _STATES,
            one(
                "Requests by outcome",
                "requests/s",
                f"sum by (outcome) (rate(router_requests_total[{WINDOW}]))",
                "{outcome}",
                "stacked",
            ),
            _LEDGER,
            quantiles("Time to first token", "router_ttft_seconds"),
            one("Usable backends", "count", "max by (pool) (router_usable_backends)", "{pool}"),
        ),
    ),
    Dashboard(
        "llm-router",
        "Router and affinity",
        "Where do requests go, and does the router keep up?",
        (
            one(
                "Requests by routing reason",
                "requests/s",
                f"sum by (reason) (rate(router_requests_total[{WINDOW}]))",
                "{reason}",
                "stacked",
            ),
            one(
                "Requests by backend",
                "requests/s",
                f"sum by (backend) (rate(router_backend_requests_total[{WINDOW}]))",
                "{backend}",
                "stacked",
            ),
            one("Requests in flight", "requests", "sum by (backend) (router_in_flight)", "{backend}"),
            one("Queue length by pool", "requests", "sum by (pool) (router_queue_length)", "{pool}"),
            one("Waiting requests by class", "requests", "sum by (class) (router_class_waiting)", "{class}"),
            one("Slots in use by class", "requests", "sum by (class) (router_class_running)", "{class}"),
            one(
                "Attempts by outcome",
                "requests/s",
                f"sum by (outcome) (rate(router_attempts_total[{WINDOW}]))",
                "{outcome}",
                "stacked",
            ),
            one(
                "Remaining retry budget",
                "count",
                "min by (instance) (router_retry_budget_remaining)",
                "{instance}",
            ),
            one(
                "Event loop lag (mean)",
                "s",
                mean_by("instance", "router_event_loop_lag_seconds"),
                "{instance}",
            ),
            quantiles("Time to decide", "router_decide_seconds"),
            one(
                "First tokens by session affinity",
                "requests/s",
                f"sum by (affinity) (rate(router_first_tokens_total[{WINDOW}]))",
                "{affinity}",
                "stacked",
                "kept: the session's pinned backend served the request. broken: that backend could not take it.",
            ),
            one(
                "Affinity store reachable",
                "count",
                "min by (instance) (router_affinity_store_up)",
                "{instance}",
            ),
        ),
    ),
    Dashboard(
        "llm-inference",
        "Inference",
        "How do the engines spend their time?",
        (
            one("Running", "requests", "sum by (backend) (vllm:num_requests_running)", "{backend}"),
            one(
                "Requests queued in the engine",
                "requests",
                "sum by (backend) (vllm:num_requests_waiting)",
                "{backend}",
            ),
            one(
                "Generated tokens",
                "tokens/s",
                f"sum by (backend) (rate(vllm:generation_tokens_total[{WINDOW}]))",
                "{backend}",
                "stacked",
            ),
            one(
                "Prompt tokens",
                "tokens/s",
                f"sum by (backend) (rate(vllm:prompt_tokens_total[{WINDOW}]))",
                "{backend}",
                "stacked",
            ),
            Panel(
                "Prefill and decode time (mean per request)",
                "s",
                (
                    Query(mean_by("backend", "vllm:request_prefill_time_seconds"), "prefill {backend}"),
                    Query(mean_by("backend", "vllm:request_decode_time_seconds"), "decode {backend}"),
                ),
                note="From the engine's histograms: sum divided by count.",
            ),
            one(
                "Time between tokens (mean)",
                "s",
                mean_by("backend", "vllm:inter_token_latency_seconds"),
                "{backend}",
            ),
            one("KV cache usage", "ratio", "max by (backend) (vllm:kv_cache_usage_perc)", "{backend}"),
            one(
                "Prefix cache hit rate",
                "ratio",
                f"sum by (backend) (rate(vllm:prefix_cache_hits_total[{WINDOW}]))"
                f" / (sum by (backend) (rate(vllm:prefix_cache_queries_total[{WINDOW}])) > 0)",
                "{backend}",
            ),
            one(
                "Preemptions",
                "requests/s",
                f"sum by (backend) (rate(vllm:num_preemptions_total[{WINDOW}]))",
                "{backend}",
            ),
            _STATES,
        ),
    ),
    Dashboard(
        "llm-gpu",
        "GPU",
        "Are the GPUs saturated or stuck?",
        (
            _STATES,
            Panel(
                "Utilisation and tensor activity",
                "ratio",
                (
                    Query(
                        "max by (hostname, gpu) (DCGM_FI_DEV_GPU_UTIL) / 100", "utilisation {hostname} {gpu}"
                    ),
                    Query(
                        "max by (hostname, gpu) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)", "tensor {hostname} {gpu}"
                    ),
                ),
                note="A GPU with 100 % utilisation, no tensor activity and idle power is stuck.",
            ),
            one("Power", "W", "max by (hostname, gpu) (DCGM_FI_DEV_POWER_USAGE)", "{hostname} {gpu}"),
            one("SM clock", "MHz", "max by (hostname, gpu) (DCGM_FI_DEV_SM_CLOCK)", "{hostname} {gpu}"),
            one("Memory usage", "MiB", "max by (hostname, gpu) (DCGM_FI_DEV_FB_USED)", "{hostname} {gpu}"),
            one(
                "Last XID error",
                "count",
                "max by (hostname, gpu) (DCGM_FI_DEV_XID_ERRORS)",
                "{hostname} {gpu}",
            ),
        ),
    ),
    Dashboard(
        "llm-edge",
        "Edge",
        "Which requests does the edge admit and refuse?",
        (
            one(
                "Responses by status class",
                "requests/s",
                "sum by (envoy_response_code_class) (rate(envoy_http_downstream_rq_xx"
                f'{{envoy_http_conn_manager_prefix="edge"}}[{WINDOW}]))',
                "{envoy_response_code_class}xx",
                "stacked",
            ),
            one(
                "Active requests",
                "requests",
                'sum(envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix="edge"})',
                "active",
            ),
            one(
                "Client connections",
                "count",
                'sum(envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="edge"})',
                "open",
            ),
            one(
                "Time in the edge (mean)",
                "s",
                f'sum(rate(router_ttft_component_seconds_sum{{component="edge"}}[{WINDOW}]))'
                f' / (sum(rate(router_ttft_component_seconds_count{{component="edge"}}[{WINDOW}])) > 0)',
                "edge",
                note="From the edge's timestamp until the router receives the request, measured by the router.",
            ),
        ),
    ),
    Dashboard(
        "llm-correlation",
        "Inference and GPU",
        "Does device activity match the engine's throughput?",
        (
            Panel(
                "Generated tokens and tensor activity",
                "ratio",
                (
                    Query(
                        f"sum by (backend) (rate(vllm:generation_tokens_total[{WINDOW}]))"
                        " / on () group_left () (max(max_over_time("
                        f"sum by (backend) (rate(vllm:generation_tokens_total[{WINDOW}]))[1h:1m])) > 0)",
                        "tokens {backend}, share of the last hour's maximum",
                    ),
                    Query(
                        "max by (hostname, gpu) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)",
                        "tensor activity {hostname} {gpu}",
                    ),
                ),
                note="Both high: normal work. Only tensor activity: a long prefill. Neither, with running requests: stuck.",
            ),
            one("Running", "requests", "sum by (backend) (vllm:num_requests_running)", "{backend}"),
            one(
                "Time between tokens (mean)",
                "s",
                mean_by("backend", "vllm:inter_token_latency_seconds"),
                "{backend}",
                note="Rises with the number of running requests, and when the SM clock falls.",
            ),
            one("SM clock", "MHz", "max by (hostname, gpu) (DCGM_FI_DEV_SM_CLOCK)", "{hostname} {gpu}"),
            one("Power", "W", "max by (hostname, gpu) (DCGM_FI_DEV_POWER_USAGE)", "{hostname} {gpu}"),
            _STATES,
        ),
    ),
    Dashboard(
        "llm-capacity",
        "Capacity and cost",
        "How much capacity is left, and what does a token cost?",
        (
            one("Usable backends", "count", "max by (pool) (router_usable_backends)", "{pool}"),
            one(
                "Successful requests",
                "requests/s",
                f'sum by (pool) (rate(router_requests_total{{outcome="ok"}}[{WINDOW}]))',
                "{pool}",
                "stacked",
            ),
            Panel(
                "Time in queues (mean per request)",
                "s",
                (
                    Query(
                        "sum by (component) (rate(router_ttft_component_seconds_sum"
                        f'{{component=~"router_queue|engine_queue"}}[{WINDOW}]))'
                        f" / on () group_left () (sum(rate(router_first_tokens_total[{WINDOW}])) > 0)",
                        "{component}",
                    ),
                ),
                note="If this grows while all engines work at full speed, the pool lacks capacity.",
            ),
            one(
                "Generated tokens by backend",
                "tokens/s",
                f"sum by (backend) (rate(vllm:generation_tokens_total[{WINDOW}]))",
                "{backend}",
                "stacked",
            ),
            one("KV cache usage", "ratio", "max by (backend) (vllm:kv_cache_usage_perc)", "{backend}"),
            one(
                "Tokens per joule",
                "tokens/J",
                f"sum(rate(vllm:generation_tokens_total[{WINDOW}])) / sum(DCGM_FI_DEV_POWER_USAGE)",
                "all GPUs",
            ),
            one(
                "GPU hours per million tokens",
                "GPU hours per million tokens",
                "count(DCGM_FI_DEV_GPU_UTIL) * 1e6 / 3600"
                f" / (sum(rate(vllm:generation_tokens_total[{WINDOW}])) > 0)",
                "all GPUs",
                note="Multiply by the price of a GPU hour to get the cost of a million tokens. Idle GPUs are included.",
            ),
        ),
    ),
    SAFE_CHANGE,
    Dashboard(
        "llm-request",
        "One request",
        "Which backend handled this request, and why?",
        (
            Panel(
                "Log lines of the request",
                "",
                (Query(f'{{namespace="llm"}} | request_id="{REQUEST_ID}"', ""),),
                "logs",
                "The router's line is the decision record: rule, candidates, reason and ledger.",
                "loki",
            ),
            Panel(
                "Trace of the request",
                "",
                (Query(f'{{ span.llm.request_id = "{REQUEST_ID}" }}', ""),),
                "traces",
                "Spans of the edge, the router with each attempt, and the engine.",
                "tempo",
            ),
            quantiles("Time to first token, with exemplars", "router_ttft_seconds"),
            Panel(
                "Slow and failed requests",
                "",
                (
                    Query(
                        '{namespace="llm", service="router-service"} | json | event="request"'
                        ' | first_token_ms > 2000 or outcome=~"upstream_error|truncated|timeout|refused"'
                        ' | line_format "{{.request_id}} {{.outcome}} {{.chosen}} {{.rule}} {{.first_token_ms}} ms"',
                        "",
                    ),
                ),
                "logs",
                "Copy a request id from here into the field above.",
                "loki",
            ),
            Panel(
                "Traces of requests with a first token after over two seconds",
                "",
                (
                    Query(
                        '{ resource.service.name = "router-service" && span.llm.first_token_ms > 2000 }', ""
                    ),
                ),
                "traces",
                source="tempo",
            ),
            Panel(
                "Decision records by outcome",
                "requests/s",
                (
                    Query(
                        'sum by (outcome) (rate({namespace="llm", service="router-service"} | json'
                        ' | event="request" [5m]))',
                        "{outcome}",
                    ),
                ),
                "stacked",
                source="loki",
            ),
        ),
        variables=(("request_id", "Request id"),),
    ),
)
"""Every dashboard, in the order of an investigation."""


def queries(source: str = "prometheus") -> list[tuple[str, Query]]:
    """Return (dashboard and panel title, query) for every query of one data source."""
    return [
        (f"dashboard {board.title}: {panel.title}", query)
        for board in DASHBOARDS
        for panel in board.panels
        if panel.source == source
        for query in panel.queries
    ]
