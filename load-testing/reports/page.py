"""The run's page for people and its `summary.json` for machines, in the run's folder."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from measure.outcome import RequestRecord
from observability.charts import Points, chart
from observability.prometheus_api import Prometheus
from reports.summary import Summary, quantile, read_records

_BUCKETS = 60  # points of a chart drawn from the records


@dataclass(frozen=True, slots=True)
class ServerFigure:
    """A chart asked of Prometheus: one line per value of ``label``."""

    title: str
    unit: str
    query: str
    label: str
    stacked: bool = False


# The rate window is a multiple of the scrape interval, short enough for a one-minute run to have a shape.
SERVER_FIGURES = (
    ServerFigure(
        "Where the time to first token went (mean per request)",
        "seconds",
        "sum by (component) (rate(router_ttft_component_seconds_sum[{window}]))"
        " / scalar(sum(rate(router_first_tokens_total[{window}])) > 0)",
        "component",
        stacked=True,
    ),
    ServerFigure(
        "Requests in flight, by backend", "requests", "sum by (backend) (router_in_flight)", "backend"
    ),
    ServerFigure(
        "Waiting in the engines", "requests", "sum by (backend) (vllm:num_requests_waiting)", "backend"
    ),
    ServerFigure("KV cache used", "ratio", "max by (backend) (vllm:kv_cache_usage_perc)", "backend"),
)


def write_report(folder: Path, summary: Summary, prometheus_url: str) -> Path:
    """Write ``summary.json`` and ``report.html`` into ``folder`` and return the page's path."""
    numbers = summary.numbers
    records = read_records(folder / "requests.jsonl")
    (folder / "summary.json").write_text(json.dumps(numbers, indent=2) + "\n")
    figures = [*_client_figures(records, numbers["started_at"])]
    notes = []
    configuration: list[str] = []
    prometheus = Prometheus(prometheus_url)
    if prometheus.reachable():
        figures += _server_figures(prometheus, numbers["started_at"], numbers["ended_at"])
        info = prometheus.instant("router_config_info", numbers["ended_at"])
        configuration = sorted({s.labels.get("hash", "?") for s in info})
    else:
        notes.append(f"No Prometheus answered at {prometheus_url}: the servers' own charts are missing.")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = folder / "report.html"
    page.write_text(
        environment.get_template("page.html.j2").render(
            n=numbers,
            tiles=_tiles(numbers),
            figures=figures,
            notes=notes,
            configuration=configuration,
            started=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(numbers["started_at"])),
            tables=[
                ("By kind of request", numbers["by_request"]),
                ("By backend", numbers["by_backend"]),
                ("By rule", numbers["by_rule"]),
            ],
            ms=_ms,
            percent=lambda ratio: f"{ratio:.1%}",
        )
    )
    return page


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:,.0f} ms"


def _tiles(n: Mapping[str, object]) -> list[tuple[str, str]]:
    ttft, gap = n["ttft_seconds"], n["inter_token_seconds"]
    assert isinstance(ttft, dict)
    assert isinstance(gap, dict)
    return [
        ("requests", f"{n['requests']:,}"),
        ("failed", f"{n['failed']}"),
        ("truncated", f"{n['truncated']}"),
        ("goodput", f"{n['goodput_ratio']:.1%}"),
        ("TTFT p50", _ms(ttft["p50"])),
        ("TTFT p95", _ms(ttft["p95"])),
        ("TTFT p99", _ms(ttft["p99"])),
        ("gap p50", _ms(gap["p50"])),
        ("gap p95", _ms(gap["p95"])),
        ("sent late", f"{n['late_ratio']:.2%}"),
    ]


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A chart with its title."""

    title: str
    svg: str


def _client_figures(records: Sequence[RequestRecord], started_at: float) -> list[DrawnFigure]:
    if not records:
        return []
    end = max(r.sent_at for r in records) - started_at
    width = max(end / _BUCKETS, 1.0)

    def over_time(values: Callable[[RequestRecord], Sequence[float]], q: float) -> Points:
        buckets: dict[int, list[float]] = {}
        for record in records:
            buckets.setdefault(int((record.sent_at - started_at) / width), []).extend(values(record))
        return [((i + 0.5) * width, quantile(v, q) or 0.0) for i, v in sorted(buckets.items()) if v]

    def ttft(record: RequestRecord) -> Sequence[float]:
        return [] if record.ttft_seconds is None else [record.ttft_seconds]

    percentiles = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    drawn = []
    for title, values in (
        ("Time to first token, by time of sending", ttft),
        ("Time between tokens, by time of sending", lambda r: r.inter_token_seconds),
    ):
        series = {name: over_time(values, q) for name, q in percentiles.items()}
        if any(series.values()):
            drawn.append(DrawnFigure(title, chart(series, "seconds")))
    return drawn


def _server_figures(prometheus: Prometheus, start: float, end: float) -> list[DrawnFigure]:
    step = max((end - start) / 120, 1.0)
    window = f"{max(int(step * 4), 10)}s"
    drawn = []
    for figure in SERVER_FIGURES:
        found = prometheus.range(figure.query.replace("{window}", window), start, end, step)
        series: dict[str, Points] = {
            s.labels.get(figure.label, "all"): [(t - start, v if v == v else 0.0) for t, v in s.points]
            for s in found
        }
        if figure.stacked:
            series = _on_the_same_times(series)
        if any(series.values()):
            drawn.append(
                DrawnFigure(
                    figure.title, chart(series, figure.unit, "stacked" if figure.stacked else "lines")
                )
            )
    return drawn


def _on_the_same_times(series: Mapping[str, Points]) -> dict[str, Points]:
    times = sorted({t for points in series.values() for t, _ in points})
    values = {name: dict(points) for name, points in series.items()}
    return {name: [(t, known.get(t, 0.0)) for t in times] for name, known in values.items()}
