"""The dashboards as a catalogue: what each shows, by which query, in which unit. Knows no drawing and no Grafana."""

from observability.panels import REQUEST_ID, WINDOW, Dashboard, Panel, Query, mean_by, one, quantiles

_LEDGER = one(
    "Where the time to first token goes (mean)",
    "s",
    f"sum by (component) (rate(router_ttft_component_seconds_sum_by[{WINDOW}]))"
    f" / on () group_left () (sum(rate(router_first_tokens_total[{WINDOW}])) > 0)",
    "{component}",
    "stacked",
    "Sums over counts, so the parts add up. Quantiles would not.",
)
_STATES = one(
    "What each backend is doing", "", "max by (backend, state) (backend_state) == 1", "{backend}", "states"
)

DASHBOARDS: tuple[Dashboard, ...] = (
    Dashboard(
        "llm-overview",
        "Overview",
        "Is it well, and if not, which layer is it?",
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
                "Why a backend was chosen",
                "requests/s",
                f"sum by (reason) (rate(router_requests_total[{WINDOW}]))",
                "{reason}",
                "stacked",
            ),
            one(
                "Requests by backend",
                "requests/s",
                f"sum by (backend) (rate(router_requests_total[{WINDOW}]))",
                "{backend}",
                "stacked",
            ),
            one("In flight", "requests", "sum by (backend) (router_in_flight)", "{backend}"),
            one("Waiting in the line", "requests", "sum by (pool) (router_queue_length)", "{pool}"),
            one(
                "Attempts by how they ended",
                "requests/s",
                f"sum by (outcome) (rate(router_attempts_total[{WINDOW}]))",
                "{outcome}",
                "stacked",
            ),
            one(
                "Retries that would be allowed",
                "count",
                "min by (instance) (router_retry_budget_remaining)",
                "{instance}",
            ),
            one(
                "Event loop: how late timers run (mean)",
                "s",
                mean_by("instance", "router_event_loop_lag_seconds"),
                "{instance}",
            ),
            quantiles("Time to decide", "router_decide_seconds"),
            one(
                "First tokens by what session affinity did",
                "requests/s",
                f"sum by (affinity) (rate(router_first_tokens_total[{WINDOW}]))",
                "{affinity}",
                "stacked",
                "kept: on the backend that knows the session. broken: that backend could not take it.",
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
        "What are the engines doing with their time?",
        (
            one("Running", "requests", "sum by (backend) (vllm:num_requests_running)", "{backend}"),
            one(
                "Waiting in the engine",
                "requests",
                "sum by (backend) (vllm:num_requests_waiting)",
                "{backend}",
            ),
            one(
                "Tokens produced",
                "tokens/s",
                f"sum by (backend) (rate(vllm:generation_tokens_total[{WINDOW}]))",
                "{backend}",
                "stacked",
            ),
            one(
                "Prompt tokens taken in",
                "tokens/s",
                f"sum by (backend) (rate(vllm:prompt_tokens_total[{WINDOW}]))",
                "{backend}",
                "stacked",
            ),
            Panel(
                "Prefill against decode (mean per request)",
                "s",
                (
                    Query(mean_by("backend", "vllm:request_prefill_time_seconds"), "prefill {backend}"),
                    Query(mean_by("backend", "vllm:request_decode_time_seconds"), "decode {backend}"),
                ),
                note="From the engine's own histograms, each a sum over its count.",
            ),
            one(
                "Time between tokens (mean)",
                "s",
                mean_by("backend", "vllm:inter_token_latency_seconds"),
                "{backend}",
            ),
            one("KV cache in use", "ratio", "max by (backend) (vllm:kv_cache_usage_perc)", "{backend}"),
            one(
                "Prefix cache hits",
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
        "Are the GPUs saturated or just stuck?",
        (
            _STATES,
            Panel(
                "Utilisation against tensor activity",
                "ratio",
                (
                    Query(
                        "max by (hostname, gpu) (DCGM_FI_DEV_GPU_UTIL) / 100", "utilisation {hostname} {gpu}"
                    ),
                    Query(
                        "max by (hostname, gpu) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)", "tensor {hostname} {gpu}"
                    ),
                ),
                note="Utilisation of 100 % without tensor activity and at idle power is a wedge, not work.",
            ),
            one("Power", "W", "max by (hostname, gpu) (DCGM_FI_DEV_POWER_USAGE)", "{hostname} {gpu}"),
            one("SM clock", "MHz", "max by (hostname, gpu) (DCGM_FI_DEV_SM_CLOCK)", "{hostname} {gpu}"),
            one("Memory in use", "MiB", "max by (hostname, gpu) (DCGM_FI_DEV_FB_USED)", "{hostname} {gpu}"),
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
        "What is admitted, what is refused?",
        (
            one(
                "Answers by class",
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
                "Connections",
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
                note="From the edge's stamp to the router, which measures it.",
            ),
        ),
    ),
    Dashboard(
        "llm-correlation",
        "Inference and GPU",
        "Does the device do what the engine says?",
        (
            Panel(
                "Tokens against tensor activity",
                "ratio",
                (
                    Query(
                        f"sum by (backend) (rate(vllm:generation_tokens_total[{WINDOW}]))"
                        " / on () group_left () (max(max_over_time("
                        f"sum by (backend) (rate(vllm:generation_tokens_total[{WINDOW}]))[1h:1m])) > 0)",
                        "tokens {backend}, of the last hour's best",
                    ),
                    Query(
                        "max by (hostname, gpu) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)",
                        "tensor activity {hostname} {gpu}",
                    ),
                ),
                note="Both up: work. Tensor activity alone: a long prefill. Neither, with requests running: a wedge.",
            ),
            one("Running", "requests", "sum by (backend) (vllm:num_requests_running)", "{backend}"),
            one(
                "Time between tokens (mean)",
                "s",
                mean_by("backend", "vllm:inter_token_latency_seconds"),
                "{backend}",
                note="Rises with company, and when the clock below falls.",
            ),
            one("SM clock", "MHz", "max by (hostname, gpu) (DCGM_FI_DEV_SM_CLOCK)", "{hostname} {gpu}"),
            one("Power", "W", "max by (hostname, gpu) (DCGM_FI_DEV_POWER_USAGE)", "{hostname} {gpu}"),
            _STATES,
        ),
    ),
    Dashboard(
        "llm-capacity",
        "Capacity and cost",
        "How much more could it take, and what does a token cost?",
        (
            one("Usable backends", "count", "max by (pool) (router_usable_backends)", "{pool}"),
            one(
                "Requests answered well",
                "requests/s",
                f'sum by (pool) (rate(router_requests_total{{outcome="ok"}}[{WINDOW}]))',
                "{pool}",
                "stacked",
            ),
            Panel(
                "Waiting for a place",
                "s",
                (
                    Query(
                        "sum by (component) (rate(router_ttft_component_seconds_sum"
                        f'{{component=~"router_queue|engine_queue"}}[{WINDOW}]))'
                        f" / on () group_left () (sum(rate(router_first_tokens_total[{WINDOW}])) > 0)",
                        "{component}",
                    ),
                ),
                note="Mean per request. Where this grows while the engines give all they can, capacity is missing.",
            ),
            one(
                "Tokens produced by each backend",
                "tokens/s",
                f"sum by (backend) (rate(vllm:generation_tokens_total[{WINDOW}]))",
                "{backend}",
                "stacked",
            ),
            one("KV cache in use", "ratio", "max by (backend) (vllm:kv_cache_usage_perc)", "{backend}"),
            one(
                "Tokens for a joule",
                "tokens/J",
                f"sum(rate(vllm:generation_tokens_total[{WINDOW}])) / sum(DCGM_FI_DEV_POWER_USAGE)",
                "all GPUs",
            ),
            one(
                "GPU hours for a million tokens",
                "GPU hours per million tokens",
                "count(DCGM_FI_DEV_GPU_UTIL) * 1e6 / 3600"
                f" / (sum(rate(vllm:generation_tokens_total[{WINDOW}])) > 0)",
                "all GPUs",
                note="Times the price of a GPU hour it is what a million tokens cost. Idle GPUs count.",
            ),
        ),
    ),
    Dashboard(
        "llm-request",
        "One request",
        "Which backend handled this request, and why?",
        (
            Panel(
                "What every layer said about it",
                "",
                (Query(f'{{namespace="llm"}} | request_id="{REQUEST_ID}"', ""),),
                "logs",
                "The router's line is the decision record: rule, candidates, reason, ledger.",
                "loki",
            ),
            Panel(
                "Its trace",
                "",
                (Query(f'{{ span.llm.request_id = "{REQUEST_ID}" }}', ""),),
                "traces",
                "Edge, router with each attempt, engine.",
                "tempo",
            ),
            quantiles("Time to first token, with traces of single requests", "router_ttft_seconds"),
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
                "Put an id from here into the field above.",
                "loki",
            ),
            Panel(
                "Traces of requests whose first token took over two seconds",
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
"""Every dashboard, in the order in which one looks at them."""


def queries(source: str = "prometheus") -> list[tuple[str, Query]]:
    """Return every query in one language, with the panel that asks it."""
    return [
        (f"dashboard {board.title}: {panel.title}", query)
        for board in DASHBOARDS
        for panel in board.panels
        if panel.source == source
        for query in panel.queries
    ]
