"""The catalogue is sound: queries parse and ask for names that somebody emits, Grafana's JSON is as generated."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import promql_parser
import pytest

from harness.judges.promql_names import grouping_labels, selectors
from harness.ports import free_port
from harness.processes import answers, running
from observability.dashboards.catalogue import DASHBOARDS, queries
from observability.dashboards.charts import chart, state_chart
from observability.dashboards.grafana import dashboard_model
from observability.dashboards.html_page import picture
from observability.dashboards.panels import UNITS, WINDOW
from observability.rules.alert import rule_group
from observability.rules.alerts import alerts
from observability.rules.time_scale import TimeScale
from observability.rules.verdict import recording_groups
from platform_contracts.prometheus import Series
from router_service.telemetry.names import METRICS

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "helm/observability/files/dashboards"
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


def test_every_label_of_a_metric_of_ours_is_one_that_it_has() -> None:
    """Also of metrics that exist only with a rollout, a shadow or a hold, which the running stack does not have."""
    labels = {metric.name: {*metric.labels, "le"} for metric in METRICS}
    scraped = {"instance", "job", "namespace", "node", "pod"}
    checked = set()
    for who, query in queries():
        expression = query.expression.replace(WINDOW, "1m")
        found = {re.sub(r"_(bucket|sum|count)$", "", one.metric): one for one in selectors(expression)}
        ours = found.keys() & labels.keys()
        if not ours or ours != found.keys():
            continue
        checked |= ours
        known = set().union(*(labels[name] for name in ours)) | scraped
        assert grouping_labels(expression) <= known, who
        for name in ours:
            assert {label for label, _ in found[name].matchers} <= labels[name] | scraped, who
    assert {"router_shadow_left_out_total", "router_rollout_state", "router_holds_total"} <= checked


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
    annotations = model["annotations"]["list"]
    assert {one["datasource"]["uid"] for one in annotations} <= by_variable
    for one in annotations:
        if one["datasource"]["type"] == "prometheus":
            promql_parser.parse(one["expr"])


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


def test_no_line_or_area_crosses_a_time_without_data() -> None:
    nan = float("nan")
    known = [(float(n), 1.0) for n in range(10)]
    gap = [(at, nan if 3 <= at <= 6 else value) for at, value in known]
    for kind in ("lines", "stacked"):
        whole, cut = (paths(chart({"one": points}, "count", kind)) for points in (known, gap))  # type: ignore[arg-type]
        assert cut == whole + 1, kind
    lone = chart({"one": [(0.0, nan), (1.0, 2.0), (2.0, nan)]}, "count")
    assert lone != chart({"one": [(0.0, nan), (1.0, nan), (2.0, nan)]}, "count"), "a lone point is drawn"


def paths(svg: str) -> int:
    """How many pieces the drawn series have."""
    drawn = re.findall(
        r'<g id="(?:line2d|FillBetweenPolyCollection|PolyCollection)_\d+">(.*?)</g>', svg, re.DOTALL
    )
    coloured = [text for text in drawn if "#0072b2" in text]
    return sum(len(re.findall(r"M ", text)) for text in coloured)


class Scraped:
    """Stands for a Prometheus that may have no value in the middle of the window."""

    def __init__(self, pause: bool) -> None:
        self._pause = pause

    def range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        points = [(start + n * step, 1.0) for n in range(int((end - start) / step) + 1)]
        third = (end - start) / 3
        return [
            Series(
                {"outcome": "ok"},
                [p for p in points if not (self._pause and start + third < p[0] < end - third)],
            )
        ]


@pytest.mark.parametrize("title", ["Requests by outcome", "Requests in flight"])
def test_a_panel_shows_when_prometheus_had_no_data(title: str) -> None:
    whole, paused = (Scraped(False), Scraped(True))
    drawn = [paths(picture(title, one, 1_000.0, 1_900.0)) for one in (whole, paused)]  # type: ignore[arg-type]
    assert drawn[1] == drawn[0] + 1


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "observability.main", "pictures", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("pages") / "log"
    with running(
        [*command, "--prometheus", "http://127.0.0.1:9"],
        log=log,
        ready=answers(f"{url}/healthz"),
        ready_seconds=60,
    ):
        yield url


@pytest.mark.service
def test_the_link_of_every_alert_leads_to_its_runbook(page_server: str) -> None:
    port = page_server.rpartition(":")[2]
    rendered = rule_group("alerts", alerts(), TimeScale(), f"http://127.0.0.1:{port}/runbooks")
    for rule in rendered["rules"]:
        answer = httpx.get(rule["annotations"]["runbook_url"], timeout=10)
        assert answer.status_code == 200
        assert f"<h1>{rule['alert']}</h1>" in answer.text


@pytest.mark.service
def test_every_link_inside_the_runbooks_works_on_the_page(page_server: str) -> None:
    seen: set[str] = set()
    waiting = [f"{page_server}/runbooks/"]
    while waiting:
        url = waiting.pop()
        answer = httpx.get(url, timeout=10)
        assert answer.status_code == 200, url
        seen.add(url)
        if "/runbooks/" in url:
            found = {urljoin(url, target) for target in re.findall(r'href="([^"#]+)"', answer.text)}
            waiting += sorted(found - seen - set(waiting))
    assert len(seen) > 30
    for wrong in ("/runbooks/Nothing.md", "/runbooks/../metrics.md", "/runbooks/..%2fmetrics.md"):
        assert httpx.get(page_server + wrong, timeout=10).status_code == 404
