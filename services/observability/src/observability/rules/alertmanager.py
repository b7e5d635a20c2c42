"""Alertmanager's routes, receivers and inhibition rules."""

from typing import Any

RECEIVERS = ("page", "ticket")
"""One receiver per severity. Local receivers send nothing: Alertmanager's page shows the alerts."""


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
            # A pool without usable backends explains its queue, its refusals and its lack of capacity.
            _quiet("PoolHasNoUsableBackend", "RouterQueueWaiting|PoolAtCapacity", ["pool"]),
            # A stuck or unreachable backend explains its own open breaker.
            _quiet("BackendStuck|BackendUnreachable", "BackendBreakerOpen", ["backend"]),
            # A late router delays requests from the edge; a stuck or throttled engine explains its slow tokens.
            _quiet("RouterEventLoopBlocked", "EdgeRunsLate", []),
            _quiet("BackendStuck|BackendUnreachable|BackendThrottled", "BackendSlow", ["backend"]),
            # A node that does not report explains its pressure, its devices and its full disks.
            _quiet("NodeNotReady", "NodeUnderPressure|NodeGpuUnallocatable|NodeFilesystemFull", ["node"]),
            # A container that repeatedly runs out of memory also crash-loops.
            _quiet("ContainerOutOfMemory", "PodCrashLooping", ["namespace", "pod", "container"]),
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
