"""The catalogue is sound: queries parse and ask for names that somebody emits, Grafana's JSON is as generated."""

import json
import re
from pathlib import Path

import promql_parser
import pytest

from observability.alerts import alerts
from observability.charts import chart, state_chart
from observability.dashboards import DASHBOARDS, queries
from observability.grafana import dashboard_model
from observability.panels import UNITS, WINDOW
from observability.verdict import recording_groups
from router_service.telemetry.names import METRICS

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "services" / "observability" / "grafana" / "dashboards"
QUERIES = [query for _, query in queries()]


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: q.expression[:60])
def test_every_query_parses(query: object) -> None:
    promql_parser.parse(query.expression.replace(WINDOW, "1m"))  # type: ignore[attr-defined]


def test_every_name_of_ours_in_a_query_or_rule_is_emitted_or_recorded() -> None:
    suffixes = ("", "_bucket", "_sum", "_count")
    known = {metric.name + suffix for metric in METRICS for suffix in suffixes}
    recorded = {rule["record"] for group in recording_groups() for rule in group["rules"]}
    expressions = [
        *(query.expression for query in QUERIES),
        *(alert.expression for alert in alerts()),
        *(rule["expr"] for group in recording_groups() for rule in group["rules"]),
    ]
    expressions = [re.sub(r'"[^"]*"', "", text) for text in expressions]  # label values are no names
    used = {name for text in expressions for name in re.findall(r"\b(?:router|gen_ai)_\w+", text)}
    assert used <= known, used - known
    used_rules = {
        name for text in expressions for name in re.findall(r"\b(?:pool(?:_\w+)?|backend):[\w:]+", text)
    }
    assert used_rules <= recorded, used_rules - recorded


def test_units_are_known_and_uids_are_unique() -> None:
    assert {panel.unit for board in DASHBOARDS for panel in board.panels} <= {*UNITS, ""}
    assert len({board.uid for board in DASHBOARDS}) == len(DASHBOARDS)


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda b: b.uid)
def test_grafanas_json_is_as_generated_and_names_no_data_source(board: object) -> None:
    model = dashboard_model(board)  # type: ignore[arg-type]
    path = GRAFANA / f"{model['uid']}.json"
    assert json.loads(path.read_text()) == model, "run `make generate`"
    by_variable = {f"${{{variable['name']}}}" for variable in model["templating"]["list"]}
    assert {panel["datasource"]["uid"] for panel in model["panels"]} <= by_variable
    assert WINDOW not in path.read_text()


def test_a_legend_names_every_label_that_a_query_groups_by() -> None:
    """Else two series would have one name, and one of them would not be drawn."""
    for who, query in queries():
        grouped = re.match(r"(?:sum|max|min) by \(([^)]*)\)", query.expression)
        if grouped and "histogram_quantile" not in query.expression:
            wanted = {label.strip() for label in grouped[1].split(",")} - {"state", "verdict", "le"}
            named = set(re.findall(r"\{(\w+)\}", query.legend))
            assert wanted <= named or len(wanted) == 0, f"{who}: {query.legend} lacks {wanted - named}"


def test_a_chart_is_the_same_bytes_every_time_and_says_its_names() -> None:
    points = [(0.0, 1.0), (5.0, 2.0)]
    first = chart({"one": points, "two": points}, "s", "stacked")
    assert first == chart({"one": points, "two": points}, "s", "stacked")
    assert "one" in first
    rows = state_chart({"backend-a": [(0.0, "idle"), (5.0, "stuck")]}, 10.0, 5.0)
    assert "backend-a" in rows
    assert "stuck" in rows
