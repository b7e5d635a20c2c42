"""The dashboards as one self-contained HTML page, drawn from any Prometheus, without Grafana."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from observability.dashboards.catalogue import DASHBOARDS
from observability.dashboards.charts import Points, chart, state_chart
from observability.dashboards.panels import WINDOW, Panel, Query
from platform_contracts.prometheus import Prometheus, Series

POINTS = 240
"""Points per chart: about one per three pixels."""

LEAST_STEP_SECONDS = 5.0

VERDICTS = "pool:bottleneck:verdict == 1"
FIRING = 'ALERTS{alertstate="firing"}'
HEADLINES = (VERDICTS, FIRING)
"""Queries of the cards at the top of the page."""

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A panel and its picture; ``svg`` is empty if there is no data."""

    panel: Panel
    svg: str


def page(prometheus: Prometheus, start: float, end: float, url: str) -> str:
    """Return the page for the time between two epoch times."""
    sections = [
        (dashboard, [Drawn(panel, _draw(panel, prometheus, start, end)) for panel in dashboard.panels])
        for dashboard in DASHBOARDS
    ]
    verdicts = {s.labels["pool"]: s.labels["verdict"] for s in prometheus.instant(VERDICTS, end)}
    firing = sorted(
        {
            (s.labels["alertname"], ", ".join(_telling(s.labels)) or "everywhere")
            for s in prometheus.instant(FIRING, end)
        }
    )
    return TEMPLATES.get_template("page.html.j2").render(
        sections=sections,
        verdicts=verdicts,
        firing=firing,
        reachable=prometheus.reachable(),
        prometheus=url,
        start=_clock(start),
        end=_clock(end),
        minutes=round((end - start) / 60),
    )


def picture(title: str, prometheus: Prometheus, start: float, end: float) -> str:
    """Return one panel as an SVG file, for a report.

    Raises:
        ValueError: no dashboard has such a panel, or it has no data in this time.
    """
    panels = {panel.title: panel for dashboard in DASHBOARDS for panel in dashboard.panels}
    if title not in panels:
        known = ", ".join(f'"{name}"' for name in panels)
        raise ValueError(f'--panel "{title}" is not a panel (known: {known})')
    svg = _draw(panels[title], prometheus, start, end)
    if not svg:
        raise ValueError(f'"{title}" has no data between {_clock(start)} and {_clock(end)} UTC')
    return svg


def _draw(panel: Panel, prometheus: Prometheus, start: float, end: float) -> str:
    if panel.source != "prometheus":
        return ""
    step = max((end - start) / POINTS, LEAST_STEP_SECONDS)
    times = [n * step for n in range(int((end - start) / step + 1e-6) + 1)]
    window = f"{max(round(4 * step), 30)}s"
    series: dict[str, Points] = {}
    states: dict[str, list[tuple[float, str]]] = {}
    for query in panel.queries:
        for found in prometheus.range(query.expression.replace(WINDOW, window), start, end, step):
            if panel.kind == "states":
                value = found.labels.get("verdict") or found.labels.get("state", "")
                states.setdefault(_name(query, found), []).extend((t - start, value) for t, _ in found.points)
            else:
                series[_name(query, found)] = _with_gaps(found.points, start, step, times)
    if panel.kind == "states":
        return state_chart(states, end - start, step, start) if states else ""
    if not any(v == v for points in series.values() for _, v in points):
        return ""
    if panel.kind == "stacked":
        series = _stackable(series, times)
    return chart(
        series, panel.unit, "stacked" if panel.kind == "stacked" else "lines", span=end - start, began=start
    )


def _name(query: Query, found: Series) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: found.labels.get(m[1]) or "none", query.legend)


def _with_gaps(points: Points, start: float, step: float, times: Sequence[float]) -> Points:
    """Return one point for each of ``times``, with NaN (a gap in the chart) where there is no value."""
    known = {round((at - start) / step): value for at, value in points}
    return [(at, known.get(n, math.nan)) for n, at in enumerate(times)]


def _stackable(series: Mapping[str, Points], times: Sequence[float]) -> dict[str, Points]:
    """Return 0 where a series has no value, but keep the gap where no series has one."""
    gaps = {n for n in range(len(times)) if all(math.isnan(points[n][1]) for points in series.values())}
    return {
        name: [(t, v if n in gaps or v == v else 0.0) for n, (t, v) in enumerate(points)]
        for name, points in series.items()
    }


def _telling(labels: Mapping[str, str]) -> list[str]:
    return [labels[name] for name in ("pool", "backend", "job", "instance") if labels.get(name)][:1]


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
