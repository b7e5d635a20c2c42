"""Recording rules for the parts of the time to first token and the bottleneck layer of each pool.

docs/bottlenecks.md explains every rule.
"""

from typing import Any

from observability.rules.time_scale import REAL_TIME, TimeScale

WINDOW_SECONDS = 60
BASELINE_SECONDS = 3600

ROUTING_FLOOR_SECONDS = 0.05
"""Router time below this gives no verdict, even if it is a large share of a short time to first token."""

QUEUEING_FLOOR_SECONDS = 0.1
SLOWDOWN = 2.0
"""An engine is slower if a token takes this many times as long as in its baseline..."""

MORE_WORK = 1.25
"""...while it computes at most this many times the tokens of its baseline. With more tokens it is loaded, not slow."""

WORK = "backend:tokens_computed:rate"
"""Tokens an engine computes per second: generated tokens, and prompt tokens not found in its prefix cache.

Recorded because a rate over an incomplete baseline would be too low, while an average over it is correct.
"""

AFFINITY_LOST = 0.8
"""Session affinity is lost if sessions keep their backend less than this many times as often as before."""


def recording_groups(scale: TimeScale = REAL_TIME) -> list[dict[str, Any]]:
    """Return the rule groups `ttft` and `bottleneck`, in dependency order."""
    window = scale.window(WINDOW_SECONDS)
    baseline = scale.window(BASELINE_SECONDS)
    none = "0 * max by (pool) (router_usable_backends)"
    sums = "router_ttft_component_seconds_sum_by"
    firsts = f"sum by (pool) (rate(router_first_tokens_total[{window}])) > 0"

    def mean_of(components: str) -> str:
        return f'(sum by (pool) (pool_component:ttft_seconds:mean{{component=~"{components}"}}) or {none})'

    def members(selector: str) -> str:
        return (
            "(max by (pool) (pool_backend:serves:group * on (backend) group_left ()"
            f' max by (backend) (backend_state{{state=~"{selector}"}})) or {none})'
        )

    lost = affinity_lost(window, baseline)
    preempting = f"(sum by (backend) (rate(vllm:num_preemptions_total[{window}])) > bool 0)"
    lag = "router_event_loop_lag_seconds"
    return [
        {
            "name": "ttft",
            "rules": [
                _record(
                    "pool:ttft_seconds:mean",
                    f"sum by (pool) (rate({sums}[{window}])) / on (pool) ({firsts})",
                ),
                _record(
                    "pool_component:ttft_seconds:mean",
                    f"sum by (pool, component) (rate({sums}[{window}])) / on (pool) group_left () ({firsts})",
                ),
                _record(
                    "pool_backend:serves:group",
                    "group by (pool, backend) (router_backend_requests_total)",
                ),
                _record(
                    WORK,
                    f"sum by (backend) (rate(vllm:generation_tokens_total[{window}]))"
                    f" + on (backend) sum by (backend) (rate(vllm:prompt_tokens_total[{window}]))"
                    f" - on (backend) sum by (backend) (rate(vllm:prefix_cache_hits_total[{window}]))",
                ),
            ],
        },
        {
            "name": "bottleneck",
            "rules": [
                _evidence("execution", "backend_not_executing", members("stuck|throttled|unreachable")),
                _evidence(
                    "execution",
                    "slower_than_its_baseline",
                    f"(max by (pool) (pool_backend:serves:group * on (backend) group_left ()"
                    f" (group by (backend) ({slower_backend(window, baseline)}))) or {none})",
                ),
                _evidence(
                    "routing",
                    "router_and_edge_share",
                    f"({mean_of('edge|router|connect|network|relay')} > bool {ROUTING_FLOOR_SECONDS})"
                    f" * ({mean_of('edge|router|connect|network|relay')}"
                    " > bool 0.3 * (pool:ttft_seconds:mean or "
                    f"{none}))",
                ),
                _evidence(
                    "routing",
                    "event_loop_blocked",
                    f"({none}) + on () group_left () (max(sum by (instance) (rate({lag}_sum[{window}]))"
                    f" / (sum by (instance) (rate({lag}_count[{window}])) > 0)) > bool {ROUTING_FLOOR_SECONDS})",
                ),
                _evidence("routing", "affinity_lost", f"({none}) + on () group_left () ({lost})"),
                _evidence(
                    "capacity",
                    "preempting",
                    "(max by (pool) (pool_backend:serves:group * on (backend) group_left ()"
                    f" {preempting}) or {none})",
                ),
                _evidence(
                    "capacity",
                    "queueing",
                    f"({mean_of('router_queue|engine_queue')} > bool {QUEUEING_FLOOR_SECONDS})"
                    f" * ({mean_of('router_queue|engine_queue')} > bool 0.3 * (pool:ttft_seconds:mean or {none}))",
                ),
                _evidence(
                    "capacity",
                    "waiting_line",
                    f"(sum by (pool) (avg_over_time(router_queue_length[{window}])) >= bool 1)",
                ),
                *_verdicts(none),
            ],
        },
    ]


def slower_backend(window: str, baseline: str) -> str:
    """Return PromQL for backends whose tokens take over twice as long as in the baseline.

    It excludes backends that preempt, or that compute more than :data:`MORE_WORK` times the tokens of the baseline.
    """
    gap = "vllm:inter_token_latency_seconds"

    def rate(part: str, span: str, offset: str = "") -> str:
        return f"sum by (backend) (rate({gap}_{part}[{span}]{offset}))"

    def mean(span: str, offset: str = "") -> str:
        return f"{rate('sum', span, offset)} / ({rate('count', span, offset)} > 0)"

    before = f" offset {window}"
    return (
        f"({mean(window)} > {SLOWDOWN} * ({mean(baseline, before)}))"
        f" and on (backend) (avg by (backend) (avg_over_time({WORK}[{window}])) <= {MORE_WORK}"
        f" * avg by (backend) (avg_over_time({WORK}[{baseline}]{before})))"
        f" unless on (backend) (sum by (backend) (rate(vllm:num_preemptions_total[{window}])) > 0)"
    )


def affinity_lost(window: str, baseline: str) -> str:
    """Return PromQL that is 1 while pins are unreadable and sessions keep their backend less often, else 0."""
    firsts = "router_first_tokens_total"

    def kept(span: str, offset: str = "") -> str:
        kept = f'(sum(rate({firsts}{{affinity="kept"}}[{span}]{offset})) or vector(0))'
        return f'{kept} / (sum(rate({firsts}{{affinity=~"placed|kept|broken"}}[{span}]{offset})) > 0)'

    down = "(min(router_affinity_store_up) == bool 0)"
    fewer = f"(({kept(window)}) < bool {AFFINITY_LOST} * ({kept(baseline, f' offset {window}')}))"
    return f"({down} * {fewer}) or vector(0)"


def _verdicts(none: str) -> list[dict[str, Any]]:
    """Return rules that give each pool exactly one verdict. Each verdict excludes those whose evidence it explains.

    The order: a backend that does not execute explains queues and slow routing; a blocked router explains queues
    and slow tokens; a slower engine explains its queue; remaining queues are a lack of capacity.
    """

    def seen(layer: str, evidence: str = ".+") -> str:
        return (
            f'(max by (pool) (pool:bottleneck_evidence:bool{{layer="{layer}",evidence=~"{evidence}"}})'
            f" or {none})"
        )

    dead = seen("execution", "backend_not_executing")
    routing, capacity = seen("routing"), seen("capacity")
    slow = seen("execution", "slower_than_its_baseline")
    parts = {
        "execution": f"clamp_max({dead} + {slow} * (1 - {routing}), 1)",
        "routing": f"{routing} * (1 - {dead})",
        "capacity": f"{capacity} * (1 - {routing}) * (1 - {dead}) * (1 - {slow})",
    }
    rules = [_record("pool:bottleneck:verdict", text, verdict=name) for name, text in parts.items()]
    named = 'sum by (pool) (pool:bottleneck:verdict{verdict!="none"})'
    return [*rules, _record("pool:bottleneck:verdict", f"1 - {named}", verdict="none")]


def _evidence(layer: str, evidence: str, expression: str) -> dict[str, Any]:
    return _record("pool:bottleneck_evidence:bool", expression, layer=layer, evidence=evidence)


def _record(name: str, expression: str, **labels: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"record": name, "expr": expression}
    if labels:
        rule["labels"] = labels
    return rule
