"""Every PromQL query in this repository, with the file that contains it. Runs none."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import promql_parser
import yaml

from harness.kubernetes.tools import tool
from harness.stacks.local import ROOT
from load_testing.reports.servers import SERVER_FIGURES
from observability.dashboards import catalogue, html_page
from observability.dashboards.panels import WINDOW
from observability.rules.alerts import alerts
from observability.rules.time_scale import TimeScale
from observability.rules.verdict import recording_groups
from observability.why_ttft import changes, hanging, windows
from observability.why_ttft.contributions import Window

OURS = re.compile(
    r"\b(?:router_|backend_|vllm:|envoy_|DCGM_|gen_ai_|redis_|node_|pool\w*:|backend:|rate_limit_)"
)
KEDA_VALUES = (
    *(
        "--values",
        str(ROOT / "helm/inference-backend/examples/mistral-7b.yaml"),
        "--set",
        "keda.enabled=true",
    ),
    *("--api-versions", "keda.sh/v1alpha1"),
)
PLACEHOLDERS = {"NAME": "backend-a", "BACKEND": "backend-a"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One expression. ``only_selectors``: the query is a comparison, so it is empty without a fault."""

    who: str
    expression: str
    only_selectors: bool = False


def every_query(scale: TimeScale) -> list[Asked]:
    """Return every query; ``scale`` divides the windows of the rules that the test renders."""
    return [*_dashboards(), *_rules(scale), *_programs(), *_keda(), *documents()]


def _dashboards() -> Iterator[Asked]:
    for who, query in catalogue.queries():
        yield Asked(who, query.expression.replace(WINDOW, "10s").replace("[1h:1m]", "[60s:5s]"))


def _rules(scale: TimeScale) -> Iterator[Asked]:
    for group in recording_groups(scale):
        for rule in group["rules"]:
            labels = ",".join(f'{name}="{value}"' for name, value in rule.get("labels", {}).items())
            yield Asked(f"rule {rule['record']}", rule["expr"], only_selectors=True)
            yield Asked(f"rule {rule['record']}", f"{rule['record']}{{{labels}}}")
    for alert in alerts(scale):
        yield Asked(f"alert {alert.name}", alert.expression, only_selectors=True)


def _programs() -> Iterator[Asked]:
    for ask in (
        lambda http: windows.read_window(http, 0.0, 10.0, ".+", ".*"),
        lambda http: windows.read_window(http, 0.0, 10.0, ".+", "true"),
        lambda http: windows.with_thinking(http, Window(), 0.0, 10.0, ".+"),
        lambda http: windows.read_noise(http, 0.0, 10.0, '{pool=~".+"}', 10.0, thinking=True),
        lambda http: windows.read_circumstances(http, 0.0, 10.0),
    ):
        for expression in windows.asked_queries(ask):
            yield Asked("scripts/why-ttft", expression, only_selectors="==" in expression)
    for look in (
        lambda http: hanging.read_hanging(http, 0.0, 5.0, 10.0),
        lambda http: changes.read_changes(http, 0.0, 10.0),
    ):
        for expression in windows.asked_queries(look):
            yield Asked("scripts/why-ttft", expression, only_selectors=True)
    for expression in html_page.HEADLINES:
        yield Asked("scripts/render-dashboards", expression, only_selectors="ALERTS" in expression)
    for figure in SERVER_FIGURES:
        yield Asked(f"load report: {figure.title}", figure.query.replace("{window}", "10s"))


def _keda() -> Iterator[Asked]:
    """Return the autoscaling triggers as Helm renders them, for the local backends."""
    done = subprocess.run(
        [tool("helm"), "template", "backend", ROOT / "helm/inference-backend", *KEDA_VALUES],
        capture_output=True,
        text=True,
        check=True,
    )
    for document in yaml.safe_load_all(done.stdout):
        if document and document["kind"] == "ScaledObject":
            for trigger in document["spec"]["triggers"]:
                if trigger["type"] == "prometheus":
                    query = re.sub(r'backend=~"[^"]*"', 'backend=~"backend-.*"', trigger["metadata"]["query"])
                    yield Asked("KEDA", query.replace("[2m]", "[10s]"))


def documents() -> Iterator[Asked]:
    """Return the PromQL in code spans and blocks of documents: text that parses and names a metric."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        if path.name == "metrics.md" or "adr" in path.parts or "results" in path.parts:
            continue
        text = path.read_text()
        spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
        spans += [
            line
            for block in re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
            for line in block.splitlines()
        ]
        for span in spans:
            whole = "runbooks" in path.parts or re.search(r"[({\[]|==", span)
            if whole and OURS.search(span) and (expression := _parsed(span)):
                yield Asked(str(path.relative_to(ROOT)), expression, only_selectors="==" in expression)


def _parsed(span: str) -> str | None:
    for word, value in PLACEHOLDERS.items():
        span = span.replace(f'"{word}"', f'"{value}"')
    span = re.sub(r"\[\d+[smhd]\]", "[10s]", span)
    try:
        promql_parser.parse(span)
    except ValueError:
        return None
    return span
