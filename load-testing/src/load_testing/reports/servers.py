"""The platform's own metrics during a run: charts on one axis, states, verdicts, configuration.

Everything comes from one Prometheus. Without one the report omits this part; the report lists failed queries.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from load_testing.reports.asking import SETTLE_SECONDS, AskedPrometheus, Unanswered
from observability.dashboards.charts import Points, chart, state_chart
from observability.dashboards.html_page import page as dashboards_page
from platform_contracts.prometheus import Prometheus, Series

_REFRESH = '<meta http-equiv="refresh" content="30">'


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A chart with its title and, where the title is not enough, a sentence."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ServerFigure:
    """A chart of a Prometheus query: one line per value of ``label``; ``states`` draws a state timeline instead."""

    title: str
    unit: str
    query: str
    label: str
    kind: str = "lines"
    note: str = ""


# The rate window is a multiple of the scrape interval, short enough for a one-minute run to have a shape.
SERVER_FIGURES = (
    ServerFigure(
        "Where the time to first token went (mean per request)",
        "s",
        "sum by (component) (rate(router_ttft_component_seconds_sum[{window}]))"
        " / scalar(sum(rate(router_first_tokens_total[{window}])) > 0)",
        "component",
        "stacked",
        "Sums over counts, so the parts add up to the mean.",
    ),
    ServerFigure(
        "Bottleneck of each pool",
        "",
        "max by (pool, verdict) (pool:bottleneck:verdict) == 1",
        "pool",
        "states",
    ),
    ServerFigure(
        "What each backend was doing", "", "max by (backend, state) (backend_state) == 1", "backend", "states"
    ),
    ServerFigure(
        "Requests in flight, by backend", "requests", "sum by (backend) (router_in_flight)", "backend"
    ),
    ServerFigure("Waiting in the router", "requests", "sum by (pool) (router_queue_length)", "pool"),
    ServerFigure(
        "Waiting in the engines", "requests", "sum by (backend) (vllm:num_requests_waiting)", "backend"
    ),
    ServerFigure("KV cache in use", "ratio", "max by (backend) (vllm:kv_cache_usage_perc)", "backend"),
    ServerFigure(
        "Prefix cache hits",
        "ratio",
        "sum by (backend) (rate(vllm:prefix_cache_hits_total[{window}]))"
        " / (sum by (backend) (rate(vllm:prefix_cache_queries_total[{window}])) > 0)",
        "backend",
    ),
    ServerFigure("Device: power", "W", "max by (backend) (backend_device_power_watts)", "backend"),
    ServerFigure(
        "Device: tensor activity", "ratio", "max by (backend) (backend_device_tensor_active_ratio)", "backend"
    ),
    ServerFigure(
        "Device: CPU time of the engine's processes",
        "cores",
        "max by (backend) (backend_device_cpu_cores)",
        "backend",
        note="What stands for a GPU where there is none.",
    ),
)


@dataclass(frozen=True)
class Observed:
    """Prometheus' values about a run."""

    figures: list[DrawnFigure] = field(default_factory=list)
    dashboards: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """Those of `FACTS` that were answered, for summary.json."""
    notes: list[str] = field(default_factory=list)
    """Missing values with their reasons, each as a sentence."""


def observe(url: str, start: float, end: float) -> Observed:
    """Query the Prometheus at ``url`` ("": none) for everything between two epoch times; wait until it has
    scraped that time.
    """
    if not url:
        return Observed(
            notes=["Not a run on the local stack, and no --prometheus: the servers' charts are missing."]
        )
    prometheus = AskedPrometheus(url)
    if not prometheus.reachable():
        return Observed(notes=[f"No Prometheus answered at {url}: the servers' own charts are missing."])
    time.sleep(max(end + SETTLE_SECONDS - time.time(), 0.0))
    end += SETTLE_SECONDS
    observed = Observed()
    _draw_figures(observed, prometheus, start, end)
    for name, (title, ask) in FACTS.items():
        try:
            observed.facts[name] = ask(prometheus, start, end)
        except Unanswered as error:
            observed.notes.append(f"Missing: {title}. {error}.")
    return _with_dashboards(observed, prometheus, start, end)


def _with_dashboards(observed: Observed, prometheus: Prometheus, start: float, end: float) -> Observed:
    try:
        page = dashboards_page(prometheus, start, end, "the run's own Prometheus")
    except Unanswered as error:
        observed.notes.append(f"Missing: the dashboards' pictures. {error}.")
        return observed
    return replace(observed, dashboards=page.replace(_REFRESH, ""))


def _draw_figures(observed: Observed, prometheus: Prometheus, start: float, end: float) -> None:
    step = max((end - start) / 120, 1.0)
    window = f"{max(int(step * 4), 15)}s"
    empty = []
    for figure in SERVER_FIGURES:
        try:
            found = prometheus.range(figure.query.replace("{window}", window), start, end, step)
        except Unanswered as error:
            observed.notes.append(f"Missing: {figure.title}. {error}.")
            continue
        if svg := _drawn(figure, found, start, end, step):
            observed.figures.append(DrawnFigure(figure.title, svg, figure.note))
        else:
            empty.append(figure.title)
    if empty:
        observed.notes.append(f"Prometheus holds nothing of this time for: {'; '.join(empty)}.")


def _drawn(figure: ServerFigure, found: list[Series], start: float, end: float, step: float) -> str:
    """Return the figure as SVG, "" if there is nothing to draw."""
    if figure.kind == "states":
        states: dict[str, list[tuple[float, str]]] = {}
        for s in found:
            name, state = s.labels.get(figure.label, "?"), s.labels.get("verdict") or s.labels["state"]
            states.setdefault(name, []).extend((t - start, state) for t, _ in s.points)
        return state_chart(states, end - start, step) if states else ""
    series: dict[str, Points] = {
        s.labels.get(figure.label, "all"): [(t - start, v) for t, v in s.points if v == v] for s in found
    }
    if figure.kind == "stacked":
        series = _on_the_same_times(series)
    if not any(series.values()):
        return ""
    kind = "stacked" if figure.kind == "stacked" else "lines"
    return chart(series, figure.unit, kind, span=end - start)  # type: ignore[arg-type]


def _on_the_same_times(series: Mapping[str, Points]) -> dict[str, Points]:
    times = sorted({t for points in series.values() for t, _ in points})
    values = {name: dict(points) for name, points in series.items()}
    return {name: [(t, known.get(t, 0.0)) for t in times] for name, known in values.items()}


def _router_configuration(prometheus: Prometheus, start: float, end: float) -> list[str]:
    return sorted({s.labels.get("hash", "?") for s in prometheus.instant("router_config_info", end)})


def _verdict_shares(prometheus: Prometheus, start: float, end: float) -> dict[str, dict[str, float]]:
    step = max((end - start) / 120, 1.0)
    shares: dict[str, dict[str, float]] = {}
    steps = max((end - start) / step, 1.0)
    for s in prometheus.range("pool:bottleneck:verdict == 1", start, end, step):
        of_pool = shares.setdefault(s.labels.get("pool", ""), {})
        of_pool[s.labels["verdict"]] = round(min(len(s.points) / steps, 1.0), 3)
    return shares


def _alerts(prometheus: Prometheus, start: float, end: float) -> list[str]:
    firing = prometheus.range('ALERTS{alertstate="firing"}', start, end, max((end - start) / 120, 1.0))
    return sorted({s.labels["alertname"] for s in firing})


def _pools(prometheus: Prometheus, start: float, end: float) -> dict[str, str]:
    """Return the pool of each backend."""
    served = prometheus.instant("group by (pool, backend) (router_backend_requests_total)", end)
    return {s.labels["backend"]: s.labels["pool"] for s in served}


def _own_figures(prometheus: Prometheus, start: float, end: float) -> dict[str, float | None]:
    """Return how much the router's counters grew during the run (without ``increase``, which extrapolates)."""

    def grown(expression: str) -> float:
        before = prometheus.instant(expression, start)
        after = prometheus.instant(expression, end)
        return (after[0].points[0][1] if after else 0.0) - (before[0].points[0][1] if before else 0.0)

    def mean(metric: str) -> float | None:
        count = grown(f"sum({metric}_count)")
        return grown(f"sum({metric}_sum)") / count if count else None

    firsts = grown("sum(router_first_tokens_total)")
    slow = grown('sum(router_first_tokens_total{slow="true"})')
    return {
        "requests": grown("sum(router_requests_total)"),
        "ok": grown('sum(router_requests_total{outcome="ok"})'),
        "completion_tokens": grown('sum(router_tokens_total{kind="completion"})'),
        "first_tokens": firsts,
        "slow_first_tokens": slow,
        "ttft_mean_seconds": mean("router_ttft_seconds"),
        "total_mean_seconds": mean("gen_ai_server_request_duration_seconds"),
    }


FACTS: Mapping[str, tuple[str, Callable[[Prometheus, float, float], Any]]] = {
    "router_configuration": ("the router's configuration", _router_configuration),
    "verdict_shares": ("the platform's verdict", _verdict_shares),
    "alerts": ("the alerts, of which none may have fired or many", _alerts),
    "pools": ("the table by pool", _pools),
    "prometheus": ("the router's own counts", _own_figures),
}
"""Values of summary.json, by name: the name in a note, and the query."""
