"""The dashboard of rollouts, shadow traffic and requests that wait for an engine."""

from observability.dashboards.panels import WINDOW, Dashboard, Panel, Query, one

_PERCENT = "router_rollout_percent"

SAFE_CHANGE = Dashboard(
    "llm-safe-change",
    "Rollouts, shadows and starts",
    "Which share has a new pool, is it as good as the old one, and who waits for an engine?",
    (
        one(
            "Share of the new pool",
            "ratio",
            f"max by (rule, pool) ({_PERCENT}) / 100",
            "{rule} {pool}",
            note="A step up or back that no router shows within two minutes: check the controller's log.",
        ),
        one("State of rollouts", "", "max by (rule, state) (router_rollout_state) == 1", "{rule}", "states"),
        one(
            "Difference between routers",
            "ratio",
            f"(max by (rule, pool) ({_PERCENT}) - min by (rule, pool) ({_PERCENT})) / 100",
            "{rule} {pool}",
            note="On Kubernetes a new share reaches the routers one after the other within about 90 seconds.",
        ),
        one(
            "Time since the last decision",
            "s",
            "time() - max by (rule, action, reason) (router_rollout_last_decision_time_seconds)",
            "{rule} {action} {reason}",
            note="More than two windows: no controller runs, and a worse pool would stay.",
        ),
        one(
            "Copies by outcome",
            "requests/s",
            f"sum by (pool, outcome) (rate(router_shadow_requests_total[{WINDOW}]))",
            "{pool} {outcome}",
            "stacked",
        ),
        one(
            "Requests that were not copied",
            "requests/s",
            f"sum by (pool, because) (rate(router_shadow_left_out_total[{WINDOW}]))",
            "{pool} {because}",
            "stacked",
        ),
        Panel(
            "Time to first token: requests and copies (p95)",
            "s",
            (
                Query(
                    f"histogram_quantile(0.95, sum by (le) (rate(router_ttft_seconds_bucket[{WINDOW}])))",
                    "requests",
                ),
                Query(
                    f"histogram_quantile(0.95, sum by (pool, le) (rate(router_shadow_ttft_seconds_bucket[{WINDOW}])))",
                    "copies {pool}",
                ),
            ),
            note="`router-service compare-pools` compares the same requests, with confidence intervals.",
        ),
        one("Requests waiting for an engine", "requests", "sum by (pool) (router_held_requests)", "{pool}"),
        one(
            "Ends of waits for an engine",
            "requests/s",
            f"sum by (pool, end) (rate(router_holds_total[{WINDOW}]))",
            "{pool} {end}",
            "stacked",
        ),
    ),
)
