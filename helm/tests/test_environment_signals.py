"""Signals and versions of an environment: KEDA, alerts, dashboards, app versions."""

import json
import re
import subprocess
from pathlib import Path

import httpx
import promql_parser
import pytest
import yaml

from harness.judges.promql_names import selectors
from harness.kubernetes.environments import HELM, ROOT, the
from harness.kubernetes.tools import tool
from harness.servers.router_fleet import fleet_in
from platform_tools.deploy.needs import CRD_VERSIONS
from router_service.telemetry.names import METRICS

pytestmark = pytest.mark.programs


def asked_by_keda(chart: str, example: str, *more: str) -> set[str]:
    """Return the metrics in the queries of a chart's ScaledObject."""
    done = subprocess.run(
        [tool("helm"), "template", "r", HELM / chart, "--set", ",".join(["keda.enabled=true", *more]), "-f",
         HELM / chart / "examples" / example, *(f"--api-versions={v}" for v in CRD_VERSIONS)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    (scaled,) = (
        one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one and one["kind"] == "ScaledObject"
    )
    queries = [trigger["metadata"].get("query") for trigger in scaled["spec"]["triggers"]]
    return {selector.metric for query in queries if query for selector in selectors(query)}


def test_what_keda_asks_for_is_exposed_by_engine_and_router(tmp_path: Path) -> None:
    """The engine is the simulator, which tests/e2e/test_simulator_shape.py compares with vLLM."""
    of_engines = asked_by_keda(
        "inference-backend", "mistral-7b.yaml", "keda.minReplicas=0", "keda.routerPool=p"
    )
    with fleet_in(tmp_path) as fleet:
        page = httpx.get(f"{fleet.add_engine('engine-a').url}/metrics", timeout=20).text
    own = {metric.name for metric in METRICS}
    assert of_engines - own
    assert of_engines - own <= set(re.findall(r"^([a-z:_]+)(?:\{| )", page, re.MULTILINE))
    of_routers = asked_by_keda("router-service", "two-pools.yaml")
    assert {re.sub("_(sum|count)$", "", name) for name in of_routers} == {"router_event_loop_lag_seconds"}
    assert "router_event_loop_lag_seconds" in own


def test_every_alert_of_the_charts_has_what_its_receiver_needs() -> None:
    rules = the("prod", "ConfigMap", "llm-platform-rules")["data"]
    groups = [group for text in rules.values() for group in yaml.safe_load(text)["groups"]]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["labels"]["severity"] in ("page", "ticket"), alert["alert"]
        assert {"summary", "description", "runbook_url"} <= alert["annotations"].keys(), alert["alert"]
        assert (ROOT / "docs" / "runbooks" / f"{alert['alert']}.md").is_file()
        assert alert["annotations"]["runbook_url"].endswith(f"docs/runbooks/{alert['alert']}.md")
        promql_parser.parse(alert["expr"])


def test_dashboards_fit_a_config_map_that_grafanas_sidecar_finds_too() -> None:
    boards = the("prod", "ConfigMap", "llm-platform-dashboards")
    assert boards["metadata"]["labels"]["grafana_dashboard"]
    assert len(json.dumps(boards).encode()) < 1024 * 1024, "what etcd takes"
    uids = [json.loads(text)["uid"] for text in boards["data"].values()]
    assert len(set(uids)) == len(uids) > 5
    used = {
        match
        for text in boards["data"].values()
        for match in re.findall(r'"datasource": \{[^}]*"uid": "([^"]+)"', text)
    }
    assert all(uid.startswith("${") or uid == "-- Grafana --" for uid in used), used


def test_a_charts_app_version_is_the_version_of_what_it_runs() -> None:
    versions = yaml.safe_load((ROOT / "versions.yaml").read_text())
    by_source = {
        facts["source"].rpartition("/")[2]: facts["version"] for facts in versions["images"].values()
    }
    for chart in sorted(HELM.glob("*/Chart.yaml")):
        facts = yaml.safe_load(chart.read_text())
        values = yaml.safe_load((chart.parent / "values.yaml").read_text())
        repository = values.get("image", {}).get("repository", "")
        ours = not repository or repository.startswith("llm-platform/")
        wanted = facts["version"] if ours else by_source[repository]
        assert str(facts["appVersion"]) == wanted, chart.parent.name
