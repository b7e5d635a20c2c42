"""Every query that anything in this repository asks of Prometheus, with who asks it. Runs none."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import promql_parser
import yaml

from harness.kubernetes_tools import tool
from harness.stacks import ROOT
from observability import dashboards, pictures, windows
from observability.alerts import alerts
from observability.panels import WINDOW
from observability.promql import TimeScale
from observability.verdict import recording_groups

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
    """One expression. ``only_selectors``: it compares, so it is empty while all is well."""

    who: str
    expression: str
    only_selectors: bool = False


def every_query(scale: TimeScale) -> list[Asked]:
    """Return every query, its windows shrunk by ``scale`` where they are ours to choose."""
    return [*_dashboards(), *_rules(scale), *_programs(), *_keda(), *documents()]


def _dashboards() -> Iterator[Asked]:
    for who, query in dashboards.queries():
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
    from reports.servers import SERVER_FIGURES  # type: ignore[import-not-found]

    for ask in (
        lambda http: windows.read_window(http, 0.0, 10.0, ".+", ".*"),
        lambda http: windows.read_window(http, 0.0, 10.0, ".+", "true"),
        lambda http: windows.read_noise(http, 0.0, 10.0, ".+", ".*", 10.0),
        lambda http: windows.read_circumstances(http, 0.0, 10.0),
    ):
        for expression in windows.asked_queries(ask):
            yield Asked("scripts/why-ttft", expression, only_selectors="==" in expression)
    for expression in pictures.HEADLINES:
        yield Asked("scripts/render-dashboards", expression, only_selectors="ALERTS" in expression)
    for figure in SERVER_FIGURES:
        yield Asked(f"load report: {figure.title}", figure.query.replace("{window}", "10s"))


def _keda() -> Iterator[Asked]:
    """The triggers as Helm renders them, about the local backends."""
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
    """PromQL in code spans and blocks of runbooks and documents: what parses and names a metric."""
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
