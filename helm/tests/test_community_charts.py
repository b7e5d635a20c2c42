"""The community's telemetry charts instead of ours: Services, data sources, labels and selectors fit together.

The charts themselves come from UPSTREAM_CHARTS_DIR, as in test_upstream_charts.py, with their subcharts in `charts`.
"""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from harness.kubernetes.charts import HELM, one
from harness.kubernetes.tools import tool
from harness.kubernetes.umbrella import umbrella

pytestmark = pytest.mark.programs

COMMUNITY = HELM / "community"
NAMESPACE = "observability"
RELEASES = {"kube-prometheus-stack": "kps", "loki": "loki", "tempo": "tempo"}
PINNED = {
    one["chart"]: one["version"] for one in yaml.safe_load((HELM / "releases.yaml").read_text())["community"]
}
SOURCES = {"prometheus": "kps", "alertmanager": "kps", "loki": "loki", "tempo": "tempo"}
"""Our data sources, by uid, and the release that serves each."""


def render(release: str, chart: Path, *values: Path, **sets: str) -> list[dict[str, Any]]:
    words = [word for file in values for word in ("-f", str(file))]
    words += [word for key, value in sets.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    done = subprocess.run(
        [tool("helm"), "template", release, chart, "-n", NAMESPACE, "--kube-version", "1.34.0", *words],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.load_all(done.stdout, yaml.CSafeLoader) if found]


@cache
def ours() -> list[dict[str, Any]]:
    """The umbrella's objects with the one switch to the community's charts."""
    environment = HELM / "llm-platform" / "environments" / "sim.yaml"
    return render("llm", umbrella(), environment, COMMUNITY / "platform.yaml", alloy__enabled="true")


@cache
def theirs(name: str) -> list[dict[str, Any]]:
    folder = os.environ.get("UPSTREAM_CHARTS_DIR")
    if not folder or not (Path(folder) / name).is_dir():
        pytest.skip(f"community chart {name}: not in UPSTREAM_CHARTS_DIR")
    facts = yaml.safe_load((Path(folder) / name / "Chart.yaml").read_text())
    listed = (COMMUNITY / "README.md").read_text()
    assert f"/{name}` | {facts['version']} |" in listed, "the version of helm/community/README.md"
    assert facts["version"] == PINNED[name], "the version of helm/releases.yaml"
    return render(RELEASES[name], Path(folder) / name, COMMUNITY / f"{name}.yaml")


def sources() -> dict[str, dict[str, Any]]:
    found = one(ours(), "ConfigMap", "llm-platform-datasources")
    return {
        source["uid"]: source for source in yaml.safe_load(found["data"]["llm-platform.yaml"])["datasources"]
    }


def test_our_telemetry_is_left_out_and_grafanas_sidecar_finds_ours() -> None:
    workloads = {
        d["metadata"]["name"] for d in ours() if d["kind"] in ("Deployment", "StatefulSet", "DaemonSet")
    }
    assert not workloads & {"prometheus", "alertmanager", "grafana", "loki", "tempo"}
    values = yaml.safe_load((COMMUNITY / "kube-prometheus-stack.yaml").read_text())["grafana"]["sidecar"]
    for kind, name in (
        ("dashboards", "llm-platform-dashboards"),
        ("datasources", "llm-platform-datasources"),
    ):
        labels = one(ours(), "ConfigMap", name)["metadata"]["labels"]
        assert labels[values[kind]["label"]] == values[kind]["labelValue"]
    assert set(sources()) == set(SOURCES)
    assert {d["kind"] for d in ours()} >= {"PrometheusRule", "PodMonitor"}


@pytest.mark.parametrize("uid", SOURCES)
def test_a_data_source_is_a_service_of_the_communitys_chart(uid: str) -> None:
    (chart,) = (name for name, release in RELEASES.items() if release == SOURCES[uid])
    address = urlsplit(sources()[uid]["url"])
    service = one(theirs(chart), "Service", str(address.hostname))
    assert (address.port or 80) in [port["port"] for port in service["spec"]["ports"]]


def test_alloy_may_push_logs_to_lokis_gateway() -> None:
    url = "http://loki-gateway.observability.svc.cluster.local/loki/api/v1/push"
    assert any(d["kind"] == "Deployment" and url in yaml.safe_dump(d) for d in ours())
    service = one(theirs("loki"), "Service", "loki-gateway")
    gateway = one(theirs("loki"), "Deployment", "loki-gateway")["spec"]["template"]
    (port,) = (p for p in service["spec"]["ports"] if p["port"] == 80)
    (reached,) = (
        p["containerPort"]
        for container in gateway["spec"]["containers"]
        for p in container.get("ports", [])
        if p["name"] == port["targetPort"]
    )
    # A policy sees the pod's port, not the Service's.
    (egress,) = (
        rule
        for rule in one(ours(), "NetworkPolicy", "alloy")["spec"]["egress"]
        if "loki" in str(rule.get("to"))
    )
    assert reached in [p["port"] for p in egress["ports"]]
    assert gateway["metadata"]["labels"]["app.kubernetes.io/name"] == "loki"


def test_prometheus_takes_every_rule_and_monitor_and_grafana_has_one_default_source() -> None:
    stack = theirs("kube-prometheus-stack")
    (prometheus,) = (d for d in stack if d["kind"] == "Prometheus")
    for selector in (
        "ruleSelector",
        "ruleNamespaceSelector",
        "podMonitorSelector",
        "podMonitorNamespaceSelector",
    ):
        assert prometheus["spec"][selector] == {}, selector
    provisioned = [
        yaml.safe_load(text)["datasources"]
        for d in stack
        if d["kind"] == "ConfigMap" and "grafana_datasource" in (d["metadata"].get("labels") or {})
        for text in d["data"].values()
    ]
    assert not any(provisioned), "a second default, or a uid twice: Grafana does not start"
    (grafana,) = (d for d in stack if d["kind"] == "Deployment" and d["metadata"]["name"] == "kps-grafana")
    secrets = {
        (env["name"], env["valueFrom"]["secretKeyRef"]["name"], env["valueFrom"]["secretKeyRef"]["key"])
        for container in grafana["spec"]["template"]["spec"]["containers"]
        for env in container.get("env", [])
        if "secretKeyRef" in env.get("valueFrom", {})
    }
    assert ("GF_SECURITY_ADMIN_USER", "grafana", "admin-user") in secrets
    assert ("GF_SECURITY_ADMIN_PASSWORD", "grafana", "admin-password") in secrets
    assert ("GF_SECURITY_SECRET_KEY", "grafana", "admin-password") in secrets


def test_loki_deletes_old_logs() -> None:
    (config,) = (
        yaml.safe_load(d["data"]["config.yaml"])
        for d in theirs("loki")
        if d["kind"] == "ConfigMap" and "config.yaml" in d.get("data", {})
    )
    assert config["compactor"]["retention_enabled"] is True
    assert config["compactor"]["delete_request_store"] == "s3"
    assert config["limits_config"]["retention_period"] == "720h"


@pytest.mark.parametrize("name", RELEASES)
def test_only_the_node_exporter_leaves_the_restricted_namespace(name: str) -> None:
    kinds = ("Deployment", "StatefulSet", "DaemonSet", "Job")
    pods = {d["metadata"]["name"]: d for d in theirs(name) if d["kind"] in kinds}
    assert pods
    for workload, document in pods.items():
        host = "node-exporter" in workload
        assert document["metadata"].get("namespace", NAMESPACE) == (
            "observability-host" if host else NAMESPACE
        )
        if host:
            continue
        spec = document["spec"]["template"]["spec"]
        whole = spec.get("securityContext", {})
        assert not any("hostPath" in volume for volume in spec.get("volumes", [])), workload
        for container in spec["containers"] + spec.get("initContainers", []):
            own = {**whole, **container.get("securityContext", {})}
            what = f"{workload}: {container['name']}"
            assert own.get("runAsNonRoot"), what
            assert own.get("allowPrivilegeEscalation") is False, what
            assert own.get("seccompProfile", {}).get("type") == "RuntimeDefault", what
            assert own.get("capabilities", {}).get("drop") == ["ALL"], what
