"""Renders the catalogue as Grafana dashboards: one JSON model each, with variables for the data sources."""

import json
from pathlib import Path
from typing import Any

from observability.dashboards.catalogue import DASHBOARDS
from observability.dashboards.panels import WINDOW, Dashboard, Panel, Query, Source

_UNITS = {
    "s": "s",
    "requests/s": "reqps",
    "ratio": "percentunit",
    "W": "watt",
    "MHz": "rotmhz",
    "MiB": "mbytes",
    "bytes": "bytes",
}
_TYPES = {"states": "state-timeline", "logs": "logs", "traces": "table"}
_SOURCES: dict[Source, str] = {"prometheus": "Metrics", "loki": "Logs", "tempo": "Traces"}
_VARIABLES: dict[Source, str] = {"prometheus": "datasource", "loki": "logs", "tempo": "traces"}
CHANGES = (
    '{namespace="llm"} |= `"change"` | json | event="change" | line_format "{{.kind}} {{.backend}}'
    '{{if .after}} {{.before}} -> {{.after}}{{end}}{{if .reason}} ({{.reason}}){{end}}"'
)
"""LogQL of the annotation on every dashboard: the change records of routers, agents and edges."""

CHANGE_TIMES = "router_change_time_seconds * 1000"
"""PromQL of the changes that routers notice, for a Grafana without Loki. The value is the time of the annotation."""

FIRING = 'ALERTS{alertstate="firing"}'

_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 2


def dashboard_model(dashboard: Dashboard) -> dict[str, Any]:
    """Return the JSON model of one dashboard; equal input gives equal output."""
    return {
        "uid": dashboard.uid,
        "title": f"LLM platform / {dashboard.title}",
        "description": dashboard.question,
        "tags": ["llm-platform"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": _annotations()},
        "templating": {"list": [*_data_sources(dashboard), *_texts(dashboard)]},
        "panels": [_panel(panel, index) for index, panel in enumerate(dashboard.panels)],
    }


def _annotations() -> list[dict[str, Any]]:
    """Return what is drawn over every chart. Only a data source that exists may be enabled."""
    prometheus = {"type": "prometheus", "uid": "${datasource}"}
    return [
        {
            "name": "Changes",
            "datasource": {"type": "loki", "uid": "${logs}"},
            "enable": True,
            "iconColor": "red",
            "expr": CHANGES,
            "maxLines": 200,
            "titleFormat": "{{kind}}",
            "tagKeys": "service",
        },
        {
            "name": "Changes that routers noticed (without Loki)",
            "datasource": prometheus,
            "enable": False,
            "iconColor": "red",
            "expr": CHANGE_TIMES,
            "step": "30s",
            "useValueForTime": "on",
            "titleFormat": "{{kind}}",
            "tagKeys": "pool,backend,after",
        },
        {
            "name": "Firing alerts",
            "datasource": prometheus,
            "enable": True,
            "iconColor": "orange",
            "expr": FIRING,
            "step": "30s",
            "titleFormat": "{{alertname}}",
            "tagKeys": "severity,pool,backend",
        },
    ]


def _data_sources(dashboard: Dashboard) -> list[dict[str, Any]]:
    used = dict.fromkeys(("prometheus", "loki", *(panel.source for panel in dashboard.panels)))
    return [
        {"name": _VARIABLES[source], "label": label, "type": "datasource", "query": source}
        for source, label in _SOURCES.items()
        if source in used
    ]


def _texts(dashboard: Dashboard) -> list[dict[str, Any]]:
    return [
        {"name": name, "label": label, "type": "textbox", "query": "", "current": {"text": "", "value": ""}}
        for name, label in dashboard.variables
    ]


def _panel(panel: Panel, index: int) -> dict[str, Any]:
    drawn = panel.kind in ("lines", "stacked")
    custom: dict[str, Any] = {"fillOpacity": 0, "lineWidth": 2}
    if panel.kind == "stacked":
        custom = {"fillOpacity": 40, "lineWidth": 1, "stacking": {"mode": "normal"}}
    return {
        "id": index + 1,
        "title": panel.title,
        "description": panel.note,
        "type": _TYPES.get(panel.kind, "timeseries"),
        "datasource": {"type": panel.source, "uid": f"${{{_VARIABLES[panel.source]}}}"},
        "gridPos": {
            "x": (index % _COLUMNS) * _WIDTH,
            "y": index // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {
                "unit": _UNITS.get(panel.unit, "short"),
                "min": 0,
                "custom": custom if drawn else {},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [_target(panel, query, number) for number, query in enumerate(panel.queries)],
    }


def _target(panel: Panel, query: Query, number: int) -> dict[str, Any]:
    reference = {"refId": chr(ord("A") + number)}
    if panel.source == "tempo":
        return {**reference, "queryType": "traceql", "query": query.expression}
    target: dict[str, Any] = {
        **reference,
        "expr": query.expression.replace(WINDOW, "$__rate_interval"),
        "legendFormat": _legend(query.legend, query.expression, panel.kind == "states"),
    }
    if panel.exemplars:
        target["exemplar"] = True
    return target


def _legend(legend: str, expression: str, states: bool) -> str:
    text = legend.replace("{", "{{").replace("}", "}}")
    if states:
        text += " {{verdict}}" if "verdict" in expression else " {{state}}"
    return text


def write_dashboards(folder: Path) -> list[Path]:
    """Write every dashboard's JSON into ``folder``; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for dashboard in DASHBOARDS:
        path = folder / f"{dashboard.uid}.json"
        path.write_text(json.dumps(dashboard_model(dashboard), indent=2) + "\n")
        written.append(path)
    return written
