"""The type of one alert, and its conversion to a Prometheus rule."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from observability.rules.time_scale import TimeScale

RUNBOOKS = "docs/runbooks"
"""The folder of the runbooks in the repository. The chart value `rules.runbooksUrl` replaces it on a cluster."""

Severity = Literal["page", "ticket"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. ``hold_seconds`` is how long ``expression`` must hold, in real time."""

    name: str
    expression: str
    hold_seconds: float
    severity: Severity
    summary: str
    description: str


def rule_group(
    name: str, alerts: Iterable[Alert], scale: TimeScale, runbooks: str, console: str = ""
) -> dict[str, Any]:
    """Return ``alerts`` as one Prometheus rule group.

    ``runbooks`` is the URL of the runbooks' folder, ``console`` that of the console (empty: no link to it).
    """
    link = {"console_url": f"{console}/why?window=5m&pool={{{{ $labels.pool }}}}"} if console else {}
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
                **link,
            },
        }
        for alert in alerts
    ]
    return {"name": name, "rules": rules}
