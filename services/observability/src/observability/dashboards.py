"""The dashboards as a catalogue: what each shows, by which query, in which unit. Knows no drawing and no Grafana."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["lines", "stacked", "states"]

WINDOW = "{window}"
"""Stands for the rate window; whoever asks replaces it (Grafana by its own variable)."""

UNITS = ("s", "requests/s", "requests", "tokens/s", "ratio", "count", "W", "MHz", "MiB", "bytes")


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression; ``legend`` is a label's name in braces, or a text."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart and the question it answers. ``states`` draws who is in which state, not a number."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of panels around one question."""

    uid: str
    title: str
    question: str
    panels: tuple[Panel, ...]


def _one(title: str, unit: str, expression: str, legend: str, kind: Kind = "lines", note: str = "") -> Panel:
    return Panel(title, unit, (Query(expression, legend),), kind, note)


def _quantiles(title: str, metric: str, note: str = "") -> Panel:
    return Panel(
        title,
        "s",
        tuple(
            Query(
                f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket[{WINDOW}])))",
                f"p{round(q * 100)}",
            )
            for q in (0.5, 0.95, 0.99)
        ),
        note=note,
    )


def _mean_by(label: str, metric: str) -> str:
    return f"sum by ({label}) (rate({metric}_sum[{WINDOW}])) / (sum by ({label}) (rate({metric}_count[{WINDOW}])) > 0)"


_LEDGER = _one(
    "Where the time to first token goes (mean)",
    "s",
    f"sum by (component) (rate(router_ttft_component_seconds_sum_by[{WINDOW}]))"
    f" / on () group_left () (sum(rate(router_first_tokens_total[{WINDOW}])) > 0)",
    "{component}",
    "stacked",
    "Sums over counts, so the parts add up. Quantiles would not.",
)
_STATES = _one(
    "What each backend is doing", "", "max by (backend, state) (backend_state) == 1", "{backend}", "states"
)

DASHBOARDS: tuple[Dashboard, ...] = (
    Dashboard(
        "llm-overview",
        "Overview",
        "Is it well, and if not, which layer is it?",
        (
            _one(
                "Bottleneck of each pool",
                "",
                "max by (pool, verdict) (pool:bottleneck:verdict) == 1",
                "{pool}",
                "states",
            ),
            _STATES,
            _one(
                "Requests by outcome",
                "requests/s",
                f"sum by (outcome) (rate(router_requests_total[{WINDOW}]))",
                "{outcome}",
                "stacked",
            ),
            _LEDGER,
            _quantiles("Time to first token", "router_ttft_seconds"),
            _one("Usable backends", "count", "max by (pool) (router_usable_backends)", "{pool}"),
        ),
    ),
    Dashboard(
        "llm-router",
        "Router and affinity",
        "Where do requests go, and does the router keep up?",
        (
            _one(
                "Why a backend was chosen",
                "requests/s",
                f"sum by (reason) (rate(router_requests_total[{WINDOW}]))",
                "{reason}",
                "stacked",
            ),
            _one(
                "Requests by backend",
                "requests/s",
                f"sum by (backend) (rate(router_requests_total[{WINDOW}]))",
                "{backend}",
                "stacked",
            ),
            _one("In flight", "requests", "sum by (backend) (router_in_flight)", "{backend}"),
            _one("Waiting in the line", "requests", "sum by (pool) (router_queue_length)", "{pool}"),
            _one(
                "Attempts by how they ended",
                "requests/s",
                f"sum by (outcome) (rate(router_attempts_total[{WINDOW}]))",
                "{outcome}",
                "stacked",
            ),
            _one(
                "Retries that would be allowed",
                "count",
                "min by (instance) (router_retry_budget_remaining)",
                "{instance}",
            ),
            _one(
                "Event loop: how late timers run (mean)",
                "s",
                _mean_by("instance", "router_event_loop_lag_seconds"),
                "{instance}",
            ),
            _quantiles("Time to decide", "router_decide_seconds"),
            _one(
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
            _one("Running", "requests", "sum by (backend) (vllm:num_requests_running)", "{backend}"),
            _one(
                "Waiting in the engine",
                "requests",
                "sum by (backend) (vllm:num_requests_waiting)",
                "{backend}",
            ),
            _one(
                "Tokens produced",
                "tokens/s",
                f"sum by (backend) (rate(vllm:generation_tokens_total[{WINDOW}]))",
                "{backend}",
                "stacked",
            ),
            _one(
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
                    Query(_mean_by("backend", "vllm:request_prefill_time_seconds"), "prefill {backend}"),
                    Query(_mean_by("backend", "vllm:request_decode_time_seconds"), "decode {backend}"),
                ),
                note="From the engine's own histograms, each a sum over its count.",
            ),
            _one(
                "Time between tokens (mean)",
                "s",
                _mean_by("backend", "vllm:inter_token_latency_seconds"),
                "{backend}",
            ),
            _one("KV cache in use", "ratio", "max by (backend) (vllm:kv_cache_usage_perc)", "{backend}"),
            _one(
                "Prefix cache hits",
                "ratio",
                f"sum by (backend) (rate(vllm:prefix_cache_hits_total[{WINDOW}]))"
                f" / (sum by (backend) (rate(vllm:prefix_cache_queries_total[{WINDOW}])) > 0)",
                "{backend}",
            ),
            _one(
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
                    Query("max by (hostname, gpu) (DCGM_FI_DEV_GPU_UTIL) / 100", "utilisation {gpu}"),
                    Query("max by (hostname, gpu) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)", "tensor {gpu}"),
                ),
                note="Utilisation of 100 % without tensor activity and at idle power is a wedge, not work.",
            ),
            _one("Power", "W", "max by (hostname, gpu) (DCGM_FI_DEV_POWER_USAGE)", "{gpu}"),
            _one("SM clock", "MHz", "max by (hostname, gpu) (DCGM_FI_DEV_SM_CLOCK)", "{gpu}"),
            _one("Memory in use", "MiB", "max by (hostname, gpu) (DCGM_FI_DEV_FB_USED)", "{gpu}"),
            _one("Last XID error", "count", "max by (hostname, gpu) (DCGM_FI_DEV_XID_ERRORS)", "{gpu}"),
        ),
    ),
    Dashboard(
        "llm-edge",
        "Edge",
        "What is admitted, what is refused?",
        (
            _one(
                "Answers by class",
                "requests/s",
                "sum by (envoy_response_code_class) (rate(envoy_http_downstream_rq_xx"
                f'{{envoy_http_conn_manager_prefix="edge"}}[{WINDOW}]))',
                "{envoy_response_code_class}xx",
                "stacked",
            ),
            _one(
                "Active requests",
                "requests",
                'sum(envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix="edge"})',
                "active",
            ),
            _one(
                "Connections",
                "count",
                'sum(envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="edge"})',
                "open",
            ),
            _one(
                "Time in the edge (mean)",
                "s",
                f'sum(rate(router_ttft_component_seconds_sum{{component="edge"}}[{WINDOW}]))'
                f' / (sum(rate(router_ttft_component_seconds_count{{component="edge"}}[{WINDOW}])) > 0)',
                "edge",
                note="From the edge's stamp to the router, which measures it.",
            ),
        ),
    ),
)
