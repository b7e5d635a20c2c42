"""The catalogue as Grafana dashboards: one JSON model each, the data source by variable."""

import json
from pathlib import Path
from typing import Any

from observability.dashboards import DASHBOARDS, WINDOW, Dashboard, Panel

_UNITS = {
    "s": "s",
    "requests/s": "reqps",
    "ratio": "percentunit",
    "W": "watt",
    "MHz": "rotmhz",
    "MiB": "mbytes",
    "bytes": "bytes",
}
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 2


def dashboard_model(dashboard: Dashboard) -> dict[str, Any]:
    """The JSON model of one dashboard, stable from one generation to the next."""
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
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
            ]
        },
        "panels": [_panel(panel, index) for index, panel in enumerate(dashboard.panels)],
    }


def _panel(panel: Panel, index: int) -> dict[str, Any]:
    states = panel.kind == "states"
    custom: dict[str, Any] = {"fillOpacity": 0, "lineWidth": 2}
    if panel.kind == "stacked":
        custom = {"fillOpacity": 40, "lineWidth": 1, "stacking": {"mode": "normal"}}
    return {
        "id": index + 1,
        "title": panel.title,
        "description": panel.note,
        "type": "state-timeline" if states else "timeseries",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
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
                "custom": {} if states else custom,
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "expr": query.expression.replace(WINDOW, "$__rate_interval"),
                "legendFormat": _legend(query.legend, query.expression, states),
            }
            for number, query in enumerate(panel.queries)
        ],
    }


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
