"""What the platform's own metrics say of a run's time: charts on one axis, states, verdicts, configuration.

Everything comes from one Prometheus; without one the report does without.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from observability.charts import Points, chart, state_chart
from observability.pictures import page as dashboards_page
from observability.prometheus_api import Prometheus

_REFRESH = '<meta http-equiv="refresh" content="30">'


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A chart with its title and, where the title is not enough, a sentence."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ServerFigure:
    """A chart asked of Prometheus: one line per value of ``label``; ``states`` draws who is in which state."""

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
    """What Prometheus knew of a run."""

    figures: list[DrawnFigure]
    dashboards: str
    facts: dict[str, Any]
    """``configuration, verdict_shares, alerts, pools, prometheus`` for summary.json."""


def observe(prometheus: Prometheus, start: float, end: float) -> Observed:
    """Ask for everything between two epoch times."""
    page = dashboards_page(prometheus, start, end, "the run's own Prometheus").replace(_REFRESH, "")
    return Observed(_figures(prometheus, start, end), page, _facts(prometheus, start, end))


def _figures(prometheus: Prometheus, start: float, end: float) -> list[DrawnFigure]:
    step = max((end - start) / 120, 1.0)
    window = f"{max(int(step * 4), 15)}s"
    drawn = []
    for figure in SERVER_FIGURES:
        found = prometheus.range(figure.query.replace("{window}", window), start, end, step)
        svg = ""
        if figure.kind == "states":
            states: dict[str, list[tuple[float, str]]] = {}
            for s in found:
                name, state = s.labels.get(figure.label, "?"), s.labels.get("verdict") or s.labels["state"]
                states.setdefault(name, []).extend((t - start, state) for t, _ in s.points)
            svg = state_chart(states, end - start, step) if states else ""
        else:
            series: dict[str, Points] = {
                s.labels.get(figure.label, "all"): [(t - start, v) for t, v in s.points if v == v]
                for s in found
            }
            if figure.kind == "stacked":
                series = _on_the_same_times(series)
            if any(series.values()):
                kind = "stacked" if figure.kind == "stacked" else "lines"
                svg = chart(series, figure.unit, kind, span=end - start)  # type: ignore[arg-type]
        if svg:
            drawn.append(DrawnFigure(figure.title, svg, figure.note))
    return drawn


def _on_the_same_times(series: Mapping[str, Points]) -> dict[str, Points]:
    times = sorted({t for points in series.values() for t, _ in points})
    values = {name: dict(points) for name, points in series.items()}
    return {name: [(t, known.get(t, 0.0)) for t in times] for name, known in values.items()}


def _facts(prometheus: Prometheus, start: float, end: float) -> dict[str, Any]:
    step = max((end - start) / 120, 1.0)
    shares: dict[str, dict[str, float]] = {}
    steps = max((end - start) / step, 1.0)
    for s in prometheus.range("pool:bottleneck:verdict == 1", start, end, step):
        of_pool = shares.setdefault(s.labels.get("pool", ""), {})
        of_pool[s.labels["verdict"]] = round(min(len(s.points) / steps, 1.0), 3)
    alerts = prometheus.range('ALERTS{alertstate="firing"}', start, end, step)
    served = prometheus.instant('group by (pool, backend, rule) (router_requests_total{backend!=""})', end)
    return {
        "router_configuration": sorted(
            {s.labels.get("hash", "?") for s in prometheus.instant("router_config_info", end)}
        ),
        "verdict_shares": shares,
        "alerts": sorted({s.labels["alertname"] for s in alerts}),
        "pools": {f"{s.labels['backend']}/{s.labels.get('rule', '')}": s.labels["pool"] for s in served},
        "prometheus": _own_figures(prometheus, start, end),
    }


def _own_figures(prometheus: Prometheus, start: float, end: float) -> dict[str, float | None]:
    """The router's counters after the run less those before it (not ``increase``, which extrapolates)."""

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
