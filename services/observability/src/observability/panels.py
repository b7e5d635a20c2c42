"""What a panel is: a query in a language, a unit and a way to draw it. Knows no drawing and no Grafana."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["lines", "stacked", "states", "logs", "traces"]
Source = Literal["prometheus", "loki", "tempo"]

WINDOW = "{window}"
"""Stands for the rate window; whoever asks replaces it (Grafana by its own variable)."""

REQUEST_ID = "$request_id"
"""Grafana's variable for the id of one request, as the answer's header `x-request-id` has it."""

UNITS = (
    "s", "requests/s", "requests", "tokens/s", "ratio", "count", "W", "MHz", "MiB", "bytes", "tokens/J",
    "GPU hours per million tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL, LogQL or TraceQL expression; ``legend`` is a label's name in braces, or a text."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart and the question it answers. ``states`` draws who is in which state, not a number.

    ``exemplars`` lets Grafana show the traces of single requests on the chart.
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
    """A page of panels around one question. ``variables`` are texts the reader types: name -> label."""

    uid: str
    title: str
    question: str
    panels: tuple[Panel, ...]
    variables: tuple[tuple[str, str], ...] = ()


def one(title: str, unit: str, expression: str, legend: str, kind: Kind = "lines", note: str = "") -> Panel:
    """A panel of one PromQL query."""
    return Panel(title, unit, (Query(expression, legend),), kind, note)


def quantiles(title: str, metric: str, note: str = "") -> Panel:
    """Three quantiles of a histogram, with exemplars."""
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
    """The mean of a histogram by one label: its sum over its count."""
    return f"sum by ({label}) (rate({metric}_sum[{WINDOW}])) / (sum by ({label}) (rate({metric}_count[{WINDOW}])) > 0)"
