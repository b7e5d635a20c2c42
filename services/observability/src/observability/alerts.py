"""Alerts: each a claim that something is wrong and somebody can act. From objectives, limits and states.

No alert looks at utilisation alone: a busy device is what was paid for. Every alert has a runbook
`docs/runbooks/<name>.md` and a test in which it fires and one in which it stays quiet.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from observability.promql import REAL_TIME, TimeScale
from observability.verdict import BASELINE_SECONDS, slower_backend

RUNBOOKS = "https://github.com/your-org/llm-inference-platform/blob/main/docs/runbooks"
"""Where the runbooks are read; `observability render --runbooks URL` names your own place."""

SLOS = Path(__file__).resolve().parents[2] / "slos.yaml"

Severity = Literal["page", "ticket"]

# (long window, short window, burn rate, severity): the multi-window pairs of the SRE workbook, chapter 5, for
# 2 % of a 30-day budget in an hour and 10 % in three days.
BURNS: tuple[tuple[int, int, float, Severity], ...] = (
    (3600, 300, 14.4, "page"),
    (6 * 3600, 1800, 6.0, "ticket"),
)


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. ``hold_seconds`` is how long ``expression`` must hold, in real time."""

    name: str
    expression: str
    hold_seconds: float
    severity: Severity
    summary: str
    description: str


def alerts(scale: TimeScale = REAL_TIME) -> list[Alert]:
    """Every alert, in the order of docs/runbooks."""
    return [*_burning(scale), *_states(), *_limits(scale)]


def alert_groups(scale: TimeScale = REAL_TIME, runbooks: str = RUNBOOKS) -> list[dict[str, Any]]:
    """The alerts as one Prometheus rule group."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": scale.hold(alert.hold_seconds),
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook_url": f"{runbooks}/{alert.name}.md",
            },
        }
        for alert in alerts(scale)
    ]
    return [{"name": "alerts", "rules": rules}]


def objectives() -> dict[str, dict[str, Any]]:
    """The objectives of slos.yaml."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(SLOS.read_text())["objectives"]
    return found


def _burning(scale: TimeScale) -> list[Alert]:
    slos = objectives()
    threshold = slos["inter_token"]["threshold_seconds"]
    per_token = "gen_ai_server_time_per_output_token_seconds"
    counted = 'outcome!~"client_error|cancelled"'
    # name, objective, bad per second, all per second ({w} stands for the window), in words
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
            "first tokens are late",
        ),
        (
            "InterTokenBudgetBurning",
            "inter_token",
            f'(sum(rate({per_token}_count[{{w}}])) - sum(rate({per_token}_bucket{{le="{threshold}"}}[{{w}}])))',
            f"sum(rate({per_token}_count[{{w}}]))",
            "answers trickle",
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
                    summary=f"So many {words} that the {objective} budget burns {burn:g} times too fast",
                    description=slos[objective]["description"]
                    + " {{ $value | humanizePercentage }} of them are bad now.",
                )
            )
    return found


def _states() -> list[Alert]:
    def state(name: str) -> str:
        return f'max by (backend) (backend_state{{state="{name}"}}) == 1'

    return [
        Alert(
            "BackendStuck", state("stuck"), 0, "page",
            "{{ $labels.backend }} holds requests and makes no progress",
            "No token, prompt token or finished request although requests are in flight. It gets no new requests.",
        ),
        Alert(
            "BackendThrottled", state("throttled"), 120, "ticket",
            "{{ $labels.backend }} computes with lowered clocks",
            "The device slowed itself down (heat, power). Answers are slower than this backend's own baseline.",
        ),
        Alert(
            "BackendUnreachable", state("unreachable"), 60, "ticket",
            "{{ $labels.backend }}'s engine does not answer",
            "Its agent is up and its engine is not: it crashed, or was never started.",
        ),
        Alert(
            "BackendStateUnknown", state("unknown"), 300, "ticket",
            "Nobody can say what {{ $labels.backend }} is doing",
            "The agent lacks the evidence to judge. The backend still gets requests; a wedge would not be seen.",
        ),
        Alert(
            "PoolHasNoUsableBackend", "max by (pool) (router_usable_backends) == 0", 15, "page",
            "Pool {{ $labels.pool }} has no backend that can take a request",
            "Requests go to its fallback pools if these serve the model, else they are answered 503.",
        ),
        Alert(
            "BackendBreakerOpen", "max by (backend) (router_breaker_open) == 1", 60, "ticket",
            "{{ $labels.backend }} keeps failing and is held back",
            "Its circuit breaker has been open, or reopened, for a minute: attempts there fail in a row.",
        ),
        Alert(
            "TargetDown", "up == 0", 60, "ticket",
            "{{ $labels.job }} at {{ $labels.instance }} cannot be scraped",
            "The part is down or unreachable for Prometheus. What it would report is missing from every answer.",
        ),
    ]  # fmt: skip


EDGE_LATE_SECONDS = 0.05
EDGE_LATE_FACTOR = 2
"""The edge is late when its part grew by this much and is this many times what it was in the hour before."""

LOST_SHARE = 0.01
LOST_SEGMENTS = 20
"""Of TCP segments, and within five minutes: less is a day like any other, and needs no one."""

CLOCK_SECONDS = 2
"""Off Prometheus's clock; what a slow scrape adds is well below."""

SCARCE_SHARE = 0.9
"""Of the open files a process may have; a stream through the router has two."""

FAR_SECONDS = 0.02
"""A round trip between router and engine; within a region it takes about one millisecond."""

BLOCKED_ROUTER_SECONDS = 0.05
LATE_ROUTER_SECONDS = 0.02
"""A router whose timers run this late is itself why requests reach it late."""


def _limits(scale: TimeScale) -> list[Alert]:
    window = scale.window(300)
    baseline = scale.window(BASELINE_SECONDS)
    lag = "router_event_loop_lag_seconds"
    part = "router_ttft_component_seconds"
    segments = "router_backend_tcp_segments_total"

    late = f"sum by (instance) (rate({lag}_sum[{window}])) / sum by (instance) (rate({lag}_count[{window}]))"

    def edge(span: str, offset: str = "") -> str:
        total = f'sum(rate({part}_sum{{component="edge"}}[{span}]{offset}))'
        return f'{total} / (sum(rate({part}_count{{component="edge"}}[{span}]{offset})) > 0)'

    return [
        Alert(
            "RouterConfigRefused", "min by (instance) (router_config_last_reload_successful) == 0", 30, "ticket",
            "The router refuses the configuration on disk",
            "It goes on with the last good one. Its log says why, with file and line.",
        ),
        Alert(
            "RouterCannotListBackends", "min by (instance, pool) (router_discovery_up) == 0", 60, "ticket",
            "{{ $labels.instance }} cannot ask who belongs to pool {{ $labels.pool }}",
            "Its DNS name or its EndpointSlices cannot be read. The last list stays: a new backend gets nothing.",
        ),
        Alert(
            "RouterClockWrong",
            f"max by (instance) (abs(router_time_seconds - timestamp(router_time_seconds))) > {CLOCK_SECONDS}", 60,
            "ticket",
            "The clock of {{ $labels.instance }} is {{ $value | humanizeDuration }} off Prometheus's",
            "Requests are not affected: nothing waits by the wall clock. Logs, records and spans are misdated.",
        ),
        Alert(
            "FileDescriptorsScarce",
            f"max by (job, instance) (max_over_time(process_open_fds[{window}]) "
            f"/ last_over_time(process_max_fds[{window}]) > {SCARCE_SHARE} "
            # with none left a router answers, and cannot open what it would read of itself
            f'or sum_over_time(up{{job="router-service"}}[{window}]) '
            f"> on (job, instance) count_over_time(process_open_fds[{window}]) "
            'or up{job="router-service"} == 1 unless on (instance) process_open_fds)', 0, "ticket",
            "{{ $labels.job }} at {{ $labels.instance }} has had over nine tenths of its descriptors open",
            "At the limit a new connection is refused, here or to what stands behind. Open streams go on.",
        ),
        Alert(
            "AffinityStoreDown", "min by (instance) (router_affinity_store_up) == 0", 60, "ticket",
            "Session pins cannot be read or written",
            "Sessions are placed by hashing: those whose pin differed have moved and lost their prefix cache.",
        ),
        Alert(
            "RetryBudgetSpent", "min by (instance) (router_retry_budget_remaining) == 0", 60, "ticket",
            "The router has no retries left to give",
            "So many attempts fail that further failures reach clients directly.",
        ),
        Alert(
            "RouterQueueWaiting", f"min_over_time(sum by (pool) (router_queue_length)[{window}:]) > 0", 0, "ticket",
            "Requests have been waiting for pool {{ $labels.pool }} without a break for 5 minutes",
            "Every backend is at its limit all the time. This is a lack of capacity or of executing backends.",
        ),
        Alert(
            "RouterEventLoopBlocked",
            f"{late} > {BLOCKED_ROUTER_SECONDS}",
            60, "page",
            "The router at {{ $labels.instance }} runs late",
            "Timers run {{ $value | humanizeDuration }} late on average: something blocks its event loop, or it has no CPU.",
        ),
        Alert(
            "EdgeRunsLate",
            f"{edge(window)} > {EDGE_LATE_SECONDS} + {EDGE_LATE_FACTOR} * ({edge(baseline, f' offset {window}')})"
            f" unless on () (max({late}) > {LATE_ROUTER_SECONDS})",
            60, "ticket",
            "Requests spend {{ $value | humanizeDuration }} in the edge before the router gets them",
            "The edge has too little CPU, the network to the router is slow, or clients send their bodies more slowly.",
        ),
        Alert(
            "BackendSlow", slower_backend(window, baseline), 120, "ticket",
            "{{ $labels.backend }} takes over twice as long for a token as in the hour before",
            "It computes no more tokens than before and does not preempt: the engine or its device is slower, not loaded.",
        ),
        Alert(
            "BackendFarAway",
            f"max by (backend) (router_backend_round_trip_seconds) > {FAR_SECONDS}", 120, "ticket",
            "A packet to {{ $labels.backend }} and its answer take {{ $value | humanizeDuration }}",
            "The network between router and engine is slow. Every first token from there is late by at least that much.",
        ),
        Alert(
            "BackendLosesPackets",
            f'sum by (backend) (rate({segments}{{repaired="true"}}[{window}])) '
            f"/ sum by (backend) (rate({segments}[{window}])) > {LOST_SHARE} "
            f'and sum by (backend) (increase({segments}{{repaired="true"}}[{window}])) > {LOST_SEGMENTS}',
            60, "ticket",
            "{{ $value | humanizePercentage }} of the packets between the routers and {{ $labels.backend }} are lost",
            "TCP sends them again: nothing is missing, and tokens wait behind every gap. Engine and router may be well.",
        ),
        Alert(
            "BackendPreempting",
            f"min_over_time((sum by (backend) (rate(vllm:num_preemptions_total[{window}])))[{window}:]) > 0", 0,
            "ticket",
            "{{ $labels.backend }} has been throwing requests out of its KV cache for 5 minutes",
            "Its KV cache is too small for what runs at once. Preempted requests start over: work is done twice.",
        ),
        Alert(
            "PoolAtCapacity", 'max by (pool) (pool:bottleneck:verdict{verdict="capacity"}) == 1', 300, "ticket",
            "Pool {{ $labels.pool }} needs more backends, or fewer requests",
            "Waiting is the largest part of its time to first token, all its backends execute, and the router is quick.",
        ),
        Alert(
            "RouterLogLinesDropped", f"sum by (instance) (rate(router_log_lines_dropped_total[{window}])) > 0", 0,
            "ticket",
            "Decision records are missing from the router's log",
            "The log's reader or disk is too slow or full. Requests are not affected; explain and replay are.",
        ),
    ]  # fmt: skip
