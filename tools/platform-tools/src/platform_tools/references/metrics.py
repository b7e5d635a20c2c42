"""Builds docs/metrics.md from all services. No other module may import all services."""

from prometheus_client import CollectorRegistry

from backend_agent.judgement import State
from backend_agent.telemetry import Metrics
from observability.metrics_reference import Row, metrics_page, rows_of
from rate_limit_service.telemetry import Telemetry
from router_service.telemetry.names import LABELS, METRICS


def page() -> str:
    """Return the page."""
    agent = Metrics("backend-a")
    agent.show_state(next(iter(State)))
    limits = CollectorRegistry()
    Telemetry(limits)
    outcome = ("outcome",)
    return metrics_page(
        {
            "Router, `router-service` 8000 `/metrics`": [
                Row(metric.name, metric.kind, metric.labels, metric.help) for metric in METRICS
            ],
            "Backend agent, 8001 `/metrics` (local stack: 8111, 8112)": rows_of(
                agent.registry,
                {"backend_state": ("backend", "state"), "backend_warmup_seconds": ("backend",)},
            ),
            "Rate limit service, 8082 `/metrics` (with token budgets)": rows_of(
                limits,
                {"rate_limit_decisions_total": outcome, "rate_limit_settlements_total": outcome},
            ),
        },
        LABELS,
    )
