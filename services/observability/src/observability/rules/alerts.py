"""The platform's alerts, derived from objectives, limits and backend states. Each one requires an action.

No alert uses utilisation alone, because a busy device is normal. Every alert has a runbook
`docs/runbooks/<name>.md`, a test in which it fires and a test in which it stays silent.
"""

from pathlib import Path
from typing import Any

import yaml

from observability.rules.alert import RUNBOOKS, Alert, Severity, rule_group
from observability.rules.time_scale import REAL_TIME, TimeScale
from observability.rules.verdict import BASELINE_SECONDS, slower_backend

SLOS = Path(__file__).resolve().parents[3] / "slos.yaml"

# (long window, short window, burn rate, severity): multi-window pairs from chapter 5 of the SRE workbook. They
# detect that 2 % of a 30-day budget is spent in one hour, or 10 % in three days.
BURNS: tuple[tuple[int, int, float, Severity], ...] = (
    (3600, 300, 14.4, "page"),
    (6 * 3600, 1800, 6.0, "ticket"),
)


def alerts(scale: TimeScale = REAL_TIME) -> list[Alert]:
    """Return every alert about the platform, for a local stack and a cluster alike."""
    return [*_burning(scale), *_states(), *_limits(scale)]


def alert_groups(
    scale: TimeScale = REAL_TIME, runbooks: str = RUNBOOKS, console: str = ""
) -> list[dict[str, Any]]:
    """Return the alerts as one Prometheus rule group; ``runbooks`` and ``console`` as in :func:`rule_group`."""
    return [rule_group("alerts", alerts(scale), scale, runbooks, console)]


def objectives() -> dict[str, dict[str, Any]]:
    """Return the objectives of slos.yaml by name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(SLOS.read_text())["objectives"]
    return found


def _burning(scale: TimeScale) -> list[Alert]:
    slos = objectives()
    threshold = slos["inter_token"]["threshold_seconds"]
    per_token = "gen_ai_server_time_per_output_token_seconds"
    counted = 'outcome!~"client_error|cancelled"'
    # alert name prefix, objective, rate of bad events, rate of all events ({w} is the window), subject and verb
    claims = (
        (
            "AvailabilityBudgetBurning",
            "availability",
            'sum(rate(router_requests_total{outcome=~"upstream_error|truncated|timeout|refused"}[{w}]))',
            f"sum(rate(router_requests_total{{{counted}}}[{{w}}]))",
            "requests fail",
        ),
        (
            "TtftBudgetBurning",
            "ttft",
            'sum(rate(router_first_tokens_total{slow="true"}[{w}]))',
            "sum(rate(router_first_tokens_total[{w}]))",
            "first tokens arrive late",
        ),
        (
            "InterTokenBudgetBurning",
            "inter_token",
            f'(sum(rate({per_token}_count[{{w}}])) - sum(rate({per_token}_bucket{{le="{threshold}"}}[{{w}}])))',
            f"sum(rate({per_token}_count[{{w}}]))",
            "completions stream slowly",
        ),
    )
    found = []
    for name, objective, bad, every, words in claims:
        budget = round(1 - slos[objective]["target"], 6)
        for long, short, burn, severity in BURNS:
            both = " and ".join(
                f"{bad} / {every} > {round(burn * budget, 6)}".replace("{w}", scale.window(span))
                for span in (long, short)
            )
            found.append(
                Alert(
                    name=name + ("Fast" if severity == "page" else "Slowly"),
                    expression=both,
                    hold_seconds=60 if severity == "page" else 900,
                    severity=severity,
                    summary=f"Too many {words}: the {objective} error budget burns {burn:g} times too fast",
                    description=slos[objective]["description"]
                    + " {{ $value | humanizePercentage }} currently miss this objective.",
                )
            )
    return found


def _states() -> list[Alert]:
    def state(name: str) -> str:
        return f'max by (backend) (backend_state{{state="{name}"}}) == 1'

    return [
        Alert(
            "BackendStuck", state("stuck"), 0, "page",
            "{{ $labels.backend }} has requests in flight and makes no progress",
            "Its engine produced no token and finished no request. The router sends it no new requests.",
        ),
        Alert(
            "BackendThrottled", state("throttled"), 120, "ticket",
            "The device of {{ $labels.backend }} is throttled",
            "The device lowered its clocks because of heat or power. Tokens take longer than this backend's baseline.",
        ),
        Alert(
            "BackendUnreachable", state("unreachable"), 60, "ticket",
            "The engine of {{ $labels.backend }} does not respond",
            "Its agent is up, but its engine has crashed or was never started.",
        ),
        Alert(
            "BackendStateUnknown", state("unknown"), 300, "ticket",
            "The state of {{ $labels.backend }} is unknown",
            "The agent lacks the evidence to judge it. The backend still gets requests; a stuck engine would go unnoticed.",
        ),
        Alert(
            "PoolHasNoUsableBackend", "max by (pool) (router_usable_backends) == 0", 15, "page",
            "Pool {{ $labels.pool }} has no usable backend",
            "Requests go to its fallback pools if these serve the model. Otherwise the router responds with 503.",
        ),
        Alert(
            "BackendBreakerOpen", 'max by (backend) (router_backend_rejected{because="breaker_open"}) == 1', 60, "ticket",
            "The circuit breaker of {{ $labels.backend }} is open",
            "Attempts there failed in a row. The breaker has been open, or has reopened, for a minute.",
        ),
        Alert(
            "TargetDown", "up == 0", 60, "ticket",
            "{{ $labels.job }} at {{ $labels.instance }} cannot be scraped",
            "The target is down, or Prometheus cannot reach it. Its series are missing from dashboards and alerts.",
        ),
    ]  # fmt: skip


EDGE_LATE_SECONDS = 0.05
EDGE_LATE_FACTOR = 2
"""The edge runs late if its time exceeds this factor times that of the hour before, plus this many seconds."""

LOST_SHARE = 0.01
LOST_SEGMENTS = 20
"""Share of TCP segments, and their number within five minutes. Smaller losses need no action."""

CLOCK_SECONDS = 2
"""Largest offset from Prometheus's clock. A slow scrape adds much less."""

SCARCE_SHARE = 0.9
"""Share of a process's file descriptor limit. A stream through the router uses two descriptors."""

FAR_SECONDS = 0.02
"""Longest normal round trip between router and engine. Within a region it takes about one millisecond."""

BLOCKED_ROUTER_SECONDS = 0.05
LATE_ROUTER_SECONDS = 0.02
"""If the router's timers run this late, the router causes the delay that it measures for the edge."""


def _limits(scale: TimeScale) -> list[Alert]:
    window = scale.window(300)
    baseline = scale.window(BASELINE_SECONDS)
    lag = "router_event_loop_lag_seconds"
    part = "router_ttft_component_seconds"
    repaired = "router_backend_tcp_repaired_total"
    carried = f"sum by (pool) (rate(router_tcp_segments_total[{window}]))"

    late = f"sum by (instance) (rate({lag}_sum[{window}])) / sum by (instance) (rate({lag}_count[{window}]))"

    def edge(span: str, offset: str = "") -> str:
        total = f'sum(rate({part}_sum{{component="edge"}}[{span}]{offset}))'
        return f'{total} / (sum(rate({part}_count{{component="edge"}}[{span}]{offset})) > 0)'

    return [
        Alert(
            "RouterConfigRefused", "min by (instance) (router_config_last_reload_successful) == 0", 30, "ticket",
            "The router refuses the configuration on disk",
            "It keeps the last valid configuration. Its log contains the reason with file and line.",
        ),
        Alert(
            "RolloutWentBack", 'max by (rule) (router_rollout_state{state="went_back"}) == 1', 0, "ticket",
            "The rollout of rule {{ $labels.rule }} went back one step",
            "The new pool broke an objective. It keeps its smaller share until `attempt` is raised or `rollout` is removed.",
        ),
        Alert(
            "RouterCannotListBackends", "min by (instance, pool) (router_discovery_up) == 0", 60, "ticket",
            "{{ $labels.instance }} cannot list the backends of pool {{ $labels.pool }}",
            "Its DNS name or EndpointSlices cannot be read. The last list stays in use, so a new backend gets no requests.",
        ),
        Alert(
            "RouterClockWrong",
            f"max by (instance) (abs(router_time_seconds - timestamp(router_time_seconds))) > {CLOCK_SECONDS}", 60,
            "ticket",
            "The clock of {{ $labels.instance }} is {{ $value | humanizeDuration }} off Prometheus's",
            "Requests are not affected, because timeouts use a monotonic clock. Logs, records and spans have wrong times.",
        ),
        Alert(
            "FileDescriptorsScarce",
            f"max by (job, instance) (max_over_time(process_open_fds[{window}]) "
            f"/ last_over_time(process_max_fds[{window}]) > {SCARCE_SHARE} "
            # A router without free descriptors responds, but cannot open /proc to read its own descriptor count.
            f'or sum_over_time(up{{job="router-service"}}[{window}]) '
            f"> on (job, instance) count_over_time(process_open_fds[{window}]) "
            'or up{job="router-service"} == 1 unless on (instance) process_open_fds)', 0, "ticket",
            "{{ $labels.job }} at {{ $labels.instance }} has used over 90 % of its file descriptors",
            "At the limit, new connections to it and from it fail. Open streams continue.",
        ),
        Alert(
            "AffinityStoreDown", "min by (instance) (router_affinity_store_up) == 0", 60, "ticket",
            "Session pins cannot be read or written",
            "The router places sessions by hashing. Sessions with a different pin have moved and lost their prefix cache.",
        ),
        Alert(
            "BudgetStoreDown",
            "min by (instance) (rate_limit_store_up) == 0 "
            f"or sum by (instance) (rate(envoy_cluster_ratelimit_budget_error[{window}])) > 0", 60, "ticket",
            "Token budgets are not shared: {{ $labels.instance }} gets no answer",
            "Clients get a small budget from each rate limit service, or none if no rate limit service answers either.",
        ),
        Alert(
            "RetryBudgetSpent", "min by (instance) (router_retry_budget_remaining) == 0", 60, "ticket",
            "The router has spent its retry budget",
            "Many attempts fail. The router makes no further retries, so failures reach clients.",
        ),
        Alert(
            "RouterQueueWaiting", f"min_over_time(sum by (pool) (router_queue_length)[{window}:]) > 0", 0, "ticket",
            "Requests have been queued for pool {{ $labels.pool }} without a break for 5 minutes",
            "Every backend is permanently at its limit. The pool lacks capacity, or some backends do not execute.",
        ),
        Alert(
            "RouterEventLoopBlocked",
            f"{late} > {BLOCKED_ROUTER_SECONDS}",
            60, "page",
            "The router at {{ $labels.instance }} runs late",
            "Timers run {{ $value | humanizeDuration }} late on average. Its event loop is blocked, or it lacks CPU.",
        ),
        Alert(
            "EdgeRunsLate",
            f"{edge(window)} > {EDGE_LATE_SECONDS} + {EDGE_LATE_FACTOR} * ({edge(baseline, f' offset {window}')})"
            f" unless on () (max({late}) > {LATE_ROUTER_SECONDS})",
            60, "ticket",
            "Requests spend {{ $value | humanizeDuration }} in the edge before they reach the router",
            "The edge has too little CPU, the network to the router is slow, or clients send their bodies more slowly.",
        ),
        Alert(
            "BackendSlow", slower_backend(window, baseline), 120, "ticket",
            "{{ $labels.backend }} takes over twice as long per token as in the hour before",
            "It computes no more tokens than before and does not preempt. The engine or its device is slower, not loaded.",
        ),
        Alert(
            "BackendFarAway",
            f"max by (backend) (router_backend_round_trip_seconds) > {FAR_SECONDS}", 120, "ticket",
            "The round trip time to {{ $labels.backend }} is {{ $value | humanizeDuration }}",
            "The network between router and engine is slow. It delays every first token by at least one round trip.",
        ),
        Alert(
            "BackendLosesPackets",
            f"sum by (pool, backend) (rate({repaired}[{window}])) / on (pool) group_left () "
            f"({carried} / on (pool) max by (pool) (router_usable_backends)) > {LOST_SHARE} "
            f"and sum by (pool, backend) (increase({repaired}[{window}])) > {LOST_SEGMENTS}",
            60, "ticket",
            "Routers and {{ $labels.backend }} lose packets: {{ $value | humanizePercentage }} of a backend's mean",
            "TCP retransmits them, so no data is missing, but each loss delays tokens. Engine and router may be healthy.",
        ),
        Alert(
            "BackendPreempting",
            f"min_over_time((sum by (backend) (rate(vllm:num_preemptions_total[{window}])))[{window}:]) > 0", 0,
            "ticket",
            "{{ $labels.backend }} has been preempting requests for 5 minutes",
            "Its KV cache is too small for the running requests. It computes preempted requests again from the start.",
        ),
        Alert(
            "PoolAtCapacity", 'max by (pool) (pool:bottleneck:verdict{verdict="capacity"}) == 1', 300, "ticket",
            "Pool {{ $labels.pool }} needs more backends, or fewer requests",
            "Requests queue or engines preempt, while every backend executes and the router is not late.",
        ),
        Alert(
            "RouterLogLinesDropped", f"sum by (instance) (rate(router_log_lines_dropped_total[{window}])) > 0", 0,
            "ticket",
            "Decision records are missing from the router's log",
            "The log reader is too slow, or the disk is slow or full. Requests are not affected; explain and replay are.",
        ),
    ]  # fmt: skip
