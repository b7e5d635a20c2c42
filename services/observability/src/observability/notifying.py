"""Who is told of an alert, and which alerts keep quiet because another one already says it."""

from typing import Any

RECEIVERS = ("page", "ticket")
"""One receiver per severity. On one machine they tell nobody: alerts are seen on Alertmanager's page."""


def alertmanager_configuration(receivers: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return alertmanager.yml. ``receivers`` gives the settings (webhook, e-mail) of ``page`` and ``ticket``."""
    settings = receivers or {}
    return {
        "route": {
            "receiver": "ticket",
            "group_by": ["alertname", "pool"],
            "group_wait": "10s",
            "group_interval": "5m",
            "repeat_interval": "12h",
            "routes": [{"matchers": ['severity="page"'], "receiver": "page", "repeat_interval": "1h"}],
        },
        "receivers": [{"name": name, **settings.get(name, {})} for name in RECEIVERS],
        "inhibit_rules": [
            # An empty pool explains its line, its refusals and its lack of capacity.
            _quiet("PoolHasNoUsableBackend", "RouterQueueWaiting|PoolAtCapacity", ["pool"]),
            # A stuck or unreachable backend explains its own open breaker.
            _quiet("BackendStuck|BackendUnreachable", "BackendBreakerOpen", ["backend"]),
            # A late router takes requests late, a slow or preempting engine makes lines: causes before symptoms.
            _quiet("RouterEventLoopBlocked", "EdgeRunsLate", []),
            _quiet("BackendStuck|BackendUnreachable|BackendThrottled", "BackendSlow", ["backend"]),
            *(
                _quiet(f"{name}BudgetBurningFast", f"{name}BudgetBurningSlowly", [])
                for name in ("Availability", "Ttft", "InterToken")
            ),
        ],
    }


def _quiet(source: str, target: str, equal: list[str]) -> dict[str, Any]:
    return {
        "source_matchers": [f'alertname=~"{source}"'],
        "target_matchers": [f'alertname=~"{target}"'],
        "equal": equal,
    }
