"""The same dashboards without Grafana: one self-contained page, drawn out of any Prometheus."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jinja2

from observability.charts import Points, chart, state_chart
from observability.dashboards import DASHBOARDS
from observability.panels import WINDOW, Panel, Query
from observability.prometheus_api import Prometheus, Series

POINTS = 240
"""Steps of a chart: about one per three pixels."""

LEAST_STEP_SECONDS = 5.0

VERDICTS = "pool:bottleneck:verdict == 1"
FIRING = 'ALERTS{alertstate="firing"}'
HEADLINES = (VERDICTS, FIRING)
"""What stands on top of the page."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A panel and its picture; ``svg`` is empty when there was nothing to draw."""

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
            f"{s.labels['alertname']}: {', '.join(_telling(s.labels)) or 'everywhere'}"
            for s in prometheus.instant(FIRING, end)
        }
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("pictures.html.j2").render(
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
    window = f"{max(round(4 * step), 30)}s"
    series: dict[str, Points] = {}
    states: dict[str, list[tuple[float, str]]] = {}
    for query in panel.queries:
        for found in prometheus.range(query.expression.replace(WINDOW, window), start, end, step):
            if panel.kind == "states":
                value = found.labels.get("verdict") or found.labels.get("state", "")
                states.setdefault(_name(query, found), []).extend((t - start, value) for t, _ in found.points)
            else:
                series[_name(query, found)] = [(t - start, v) for t, v in found.points if v == v]
    if panel.kind == "states":
        return state_chart(states, end - start, step, start) if states else ""
    if not any(series.values()):
        return ""
    if panel.kind == "stacked":
        series = _on_the_same_times(series)
    return chart(
        series, panel.unit, "stacked" if panel.kind == "stacked" else "lines", span=end - start, began=start
    )


def _name(query: Query, found: Series) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: found.labels.get(m[1]) or "none", query.legend)


def _on_the_same_times(series: Mapping[str, Points]) -> dict[str, Points]:
    times = sorted({t for points in series.values() for t, _ in points})
    values = {name: dict(points) for name, points in series.items()}
    return {name: [(t, known.get(t, 0.0)) for t in times] for name, known in values.items()}


def _telling(labels: Mapping[str, str]) -> list[str]:
    return [labels[name] for name in ("pool", "backend", "job", "instance") if labels.get(name)][:1]


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def serve(port: int, prometheus_url: str) -> None:
    """Serve the page on 127.0.0.1 until the process is ended; ``?minutes=120`` looks further back."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/healthz":
                self._answer(200, "ok", "text/plain")
                return
            if parts.path != "/":
                self._answer(404, "not found", "text/plain")
                return
            asked = parse_qs(parts.query).get("minutes", ["15"])[0]
            minutes = min(max(int(asked), 1), 24 * 60) if asked.isdigit() else 15
            end = time.time()
            text = page(Prometheus(prometheus_url), end - minutes * 60, end, prometheus_url)
            self._answer(200, text, "text/html; charset=utf-8")

        def _answer(self, status: int, text: str, kind: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody needs a line for every look at a page."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
