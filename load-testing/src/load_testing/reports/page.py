"""The run's page for people and its `summary.json` for machines, in the run's folder."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from load_testing.measure.outcome import RequestRecord
from load_testing.reports.asking import SETTLE_SECONDS
from load_testing.reports.servers import DrawnFigure, observe
from load_testing.reports.summary import Summary, by, keeps_slo, quantile, read_records
from load_testing.workloads import Slo
from observability.dashboards.charts import Points, chart

_BUCKETS = 60  # points of a chart drawn from the records


def write_report(folder: Path, summary: Summary, prometheus_url: str) -> Path:
    """Write ``summary.json`` and ``report.html`` into ``folder`` and return the page's path.

    ``prometheus_url`` is the Prometheus of the tested servers, "" if unknown.
    """
    numbers = summary.numbers
    write_summary(folder, summary)  # written first, because a query below may fail
    records = read_records(folder / "requests.jsonl")
    slo = Slo(**numbers["slo"])
    figures = _client_figures(records, numbers["started_at"], numbers["ended_at"], slo)
    observed = observe(prometheus_url, numbers["started_at"], numbers["ended_at"])
    pools = observed.facts.pop("pools", None)
    if pools is not None:
        numbers["by_pool"] = by(records, lambda r: pools.get(r.backend, "none"), slo)
    numbers |= observed.facts
    numbers["notes"] = observed.notes
    write_summary(folder, summary)
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
            figures=figures + observed.figures,
            dashboards=observed.dashboards,
            notes=observed.notes,
            started=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(numbers["started_at"])),
            tables=[
                (title, numbers[name])
                for title, name in (
                    ("By kind of request", "by_request"),
                    ("By pool", "by_pool"),
                    ("By rule", "by_rule"),
                    ("By backend", "by_backend"),
                )
                if name in numbers
            ],
            ms=_ms,
            percent=lambda ratio: f"{ratio:.1%}",
        )
    )
    return page


def write_summary(folder: Path, summary: Summary) -> None:
    """Write ``summary.json`` into ``folder``."""
    (folder / "summary.json").write_text(json.dumps(summary.numbers, indent=2) + "\n")


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:,.0f} ms"


def _tiles(n: Mapping[str, Any]) -> list[tuple[str, str]]:
    ttft, gap = n["ttft_seconds"], n["inter_token_seconds"]
    return [
        ("requests", f"{n['requests']:,}"),
        ("failed", f"{n['failed']}"),
        ("truncated", f"{n['truncated']}"),
        ("goodput", f"{n['goodput_ratio']:.1%}"),
        ("goodput / s", f"{n['goodput_requests_per_second']:.2f}"),
        ("TTFT p50", _ms(ttft["p50"])),
        ("TTFT p95", _ms(ttft["p95"])),
        ("TTFT p99", _ms(ttft["p99"])),
        ("gap p50", _ms(gap["p50"])),
        ("gap p95", _ms(gap["p95"])),
        ("sent late", f"{n['late_ratio']:.2%}"),
        ("busiest generator", _cpu(n["generators"])),
    ]


def _cpu(generators: Sequence[Mapping[str, float]]) -> str:
    """The busiest generator's value, because it is late first."""
    if not generators:
        return "–"
    return f"{max(g['cpu_cores'] for g in generators):.0%} of a core"


def _client_figures(
    records: Sequence[RequestRecord], started_at: float, ended_at: float, slo: Slo
) -> list[DrawnFigure]:
    if not records:
        return []
    span = ended_at + SETTLE_SECONDS - started_at  # the charts of the servers share this axis
    width = max((max(r.sent_at for r in records) - started_at) / _BUCKETS, 1.0)

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
            drawn.append(DrawnFigure(title, chart(series, "s", span=span)))
    rates = {
        "sent": _per_second(records, started_at, width, lambda r: True),
        "kept the SLO": _per_second(records, started_at, width, lambda r: keeps_slo(r, slo)),
    }
    return [DrawnFigure("Sent, and of these kept the SLO", chart(rates, "requests/s", span=span)), *drawn]


def _per_second(
    records: Sequence[RequestRecord], started_at: float, width: float, counts: Callable[[RequestRecord], bool]
) -> Points:
    buckets = Counter(int((r.sent_at - started_at) / width) for r in records if counts(r))
    last = max(int((r.sent_at - started_at) / width) for r in records)
    return [((i + 0.5) * width, buckets[i] / width) for i in range(last)]
