"""Types of dashboards, panels and queries. Independent of Grafana and of the HTML renderer."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["lines", "stacked", "states", "logs", "traces"]
Source = Literal["prometheus", "loki", "tempo"]

WINDOW = "{window}"
"""Placeholder for the rate window. Each renderer replaces it (Grafana: `$__rate_interval`)."""

REQUEST_ID = "$request_id"
"""Grafana's variable for the id of one request, from the response header `x-request-id`."""

UNITS = (
    "s", "requests/s", "requests", "tokens/s", "ratio", "count", "W", "MHz", "MiB", "bytes", "tokens/J",
    "GPU hours per million tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL, LogQL or TraceQL expression. ``legend`` is a text that may contain label names in braces."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. The kind ``states`` draws a state per series over time instead of a number.

    ``exemplars`` links points of the chart to traces of single requests in Grafana.
    """

    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    note: str = ""
    source: Source = "prometheus"
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of panels that answers one question. ``variables`` are text inputs as (name, label)."""

    uid: str
    title: str
    question: str
    panels: tuple[Panel, ...]
    variables: tuple[tuple[str, str], ...] = ()


def one(title: str, unit: str, expression: str, legend: str, kind: Kind = "lines", note: str = "") -> Panel:
    """Return a panel with one PromQL query."""
    return Panel(title, unit, (Query(expression, legend),), kind, note)


def quantiles(title: str, metric: str, note: str = "") -> Panel:
    """Return a panel with the 0.5, 0.95 and 0.99 quantiles of a histogram, with exemplars."""
    return Panel(
        title,
        "s",
        tuple(
            Query(
                f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket[{WINDOW}])))",
                f"p{round(q * 100)}",
            )
            for q in (0.5, 0.95, 0.99)
        ),
        note=note,
        exemplars=True,
    )


def mean_by(label: str, metric: str) -> str:
    """Return PromQL for the mean of a histogram by one label: its sum divided by its count."""
    return f"sum by ({label}) (rate({metric}_sum[{WINDOW}])) / (sum by ({label}) (rate({metric}_count[{WINDOW}])) > 0)"
