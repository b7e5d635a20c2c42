"""Charts of other projects: `scripts/deploy --upstream`, pinned versions, and the objects that the platform
uses.

Tests with the charts themselves need UPSTREAM_CHARTS_DIR, a folder with one chart per name of helm/releases.yaml at
its pinned version (`helm pull NAME --repo URL --version V --untar`). Without it they are skipped, and the
reason names the variable.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.charts import HELM
from harness.kubernetes.deploy_script import CONTRACT, UPSTREAM, Script
from harness.kubernetes.fake_api_server import FakeKubernetes
from harness.kubernetes.tools import tool
from harness.stacks.local import ROOT
from observability.rules.scrape_cluster import cluster_configuration

pytestmark = pytest.mark.programs

NAMES = [chart["name"] for chart in UPSTREAM]
BY_NAME: dict[str, dict[str, Any]] = {chart["name"]: chart for chart in UPSTREAM}
TERRAFORM_FILES = ("aws-load-balancer-controller", "cluster-autoscaler")
PROVEN_BY_CLUSTER_VALUES = {
    "aws-load-balancer-controller": {
        "clusterName": "llm-prod", "region": "eu-central-1", "vpcId": "vpc-1",
        "serviceAccount": {"create": True, "name": "aws-load-balancer-controller"},
        "defaultTags": {"a": "b"},
    },
    "cluster-autoscaler": {
        "cloudProvider": "aws", "awsRegion": "eu-central-1", "autoDiscovery": {"clusterName": "llm-prod"},
        "rbac": {"serviceAccount": {"create": True, "name": "cluster-autoscaler"}},
    },
}  # fmt: skip
"""What the output ``release_values`` of infrastructure/environments holds, with made-up facts."""


@pytest.fixture
def handed_over(script: Script) -> Path:
    """The values file of scripts/cluster-up, with the files of two upstream charts next to it."""
    file = script.values.with_name("prod.values.yaml")
    file.write_text(script.values.read_text())
    for name, values in PROVEN_BY_CLUSTER_VALUES.items():
        file.with_name(f"prod.{name}.values.yaml").write_text(yaml.safe_dump(values))
    return file


def test_upstream_charts_are_installed_at_their_versions_with_the_clusters_values(
    script: Script, cluster: FakeKubernetes, handed_over: Path
) -> None:
    done = script("deploy", "prod", "-f", str(handed_over), "--upstream")
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in script.installed] == NAMES
    for line, chart in zip(script.installed, UPSTREAM, strict=True):
        name = chart["name"]
        assert f"--repo {chart['repository']} --version {chart['version']}" in line
        assert f"--namespace {chart['namespace']} -f {HELM}/upstream/{name}.yaml" in line
        assert (f"prod.{name}.values.yaml" in line) == (name in TERRAFORM_FILES)
        assert f"-f {handed_over} " not in line, "values of our charts are not those of others"
        assert "--kube-context fake" in line
    labels = {one["metadata"]["name"]: one["metadata"]["labels"] for one in cluster.objects["namespaces"]}
    assert labels["observability-host"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_a_dry_run_prints_every_command_and_installs_nothing(
    script: Script, cluster: FakeKubernetes, handed_over: Path
) -> None:
    done = script("deploy", "prod", "-f", str(handed_over), "--upstream", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"helm upgrade --install (\S+)", done.stdout) == NAMES
    assert script.installed == []
    assert cluster.changes == []


def test_charts_that_need_facts_of_the_cluster_are_refused_without_them(script: Script) -> None:
    done = script("deploy", "prod", "-f", str(script.values), "--upstream")
    assert done.returncode == 1
    for name in TERRAFORM_FILES:
        assert (
            f"{name} has no values of this cluster: give -f .run/cluster/<environment>.values.yaml"
            in done.stderr
        )
    assert "nothing was installed" in done.stderr
    assert script.installed == []


@pytest.mark.parametrize("environment", ["kind", "sim"])
def test_environments_without_gpu_and_load_balancer_need_no_upstream_chart(
    script: Script, environment: str
) -> None:
    done = script("deploy", environment, "--upstream")
    assert done.returncode == 0, done.stderr
    assert "0 upstream charts are installed" in done.stdout
    assert script.installed == []


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_chart_is_reported_with_its_remedy(
    name: str, script: Script, cluster: FakeKubernetes
) -> None:
    resource, workload = BY_NAME[name]["workload"].split("/")
    cluster.objects[resource] = [
        one for one in cluster.objects[resource] if one["metadata"]["name"] != workload
    ]
    done = script("deploy", "prod", "-f", str(script.values))
    assert done.returncode == 1
    assert f"{name} is not in {BY_NAME[name]['namespace']}: install it with --upstream" in done.stderr
    assert script.installed == []


@pytest.mark.parametrize("name", NAMES)
def test_a_chart_without_a_ready_pod_is_reported(name: str, script: Script, cluster: FakeKubernetes) -> None:
    """Until the load balancer controller's webhook answers, the API server refuses every Service."""
    resource, workload = BY_NAME[name]["workload"].split("/")
    (found,) = (one for one in cluster.objects[resource] if one["metadata"]["name"] == workload)
    found["status"] = {"replicas": 2} if resource == "deployments" else {"desiredNumberScheduled": 2}
    done = script("deploy", "prod", "-f", str(script.values))
    assert done.returncode == 1
    assert f"{name} in {BY_NAME[name]['namespace']} has no ready pod of 2: kubectl -n" in done.stderr


def test_another_version_is_a_note(script: Script, cluster: FakeKubernetes) -> None:
    (found,) = (
        one for one in cluster.objects["daemonsets"] if one["metadata"]["name"] == "nvidia-device-plugin"
    )
    found["metadata"]["labels"]["helm.sh/chart"] = "nvidia-device-plugin-0.1.0"
    done = script("deploy", "prod", "-f", str(script.values), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert (
        "note: daemonsets/nvidia-device-plugin in kube-system is of chart nvidia-device-plugin-0.1.0"
        in done.stdout
    )


def test_versions_and_repositories_are_those_of_versions_yaml() -> None:
    listed = yaml.safe_load((ROOT / "versions.yaml").read_text())["upstream_charts"]
    assert {name: facts["version"] for name, facts in listed.items()} == {
        chart["name"]: chart["version"] for chart in UPSTREAM
    }
    for chart in UPSTREAM:
        assert listed[chart["name"]]["source"] == chart["repository"]
        assert chart["version"] in listed[chart["name"]]["tag"]
        assert (HELM / "upstream" / f"{chart['name']}.yaml").is_file()
    assert {path.stem for path in (HELM / "upstream").glob("*.yaml")} == set(NAMES)


def test_the_node_autoscaler_waits_longer_than_any_pod_may_take_to_end() -> None:
    """Its default kills a pod on a removed node after 600 s, in the middle of a stream."""
    graces = [
        int(found)
        for path in (HELM / "tests" / "goldens" / "prod").iterdir()
        for found in re.findall(r"terminationGracePeriodSeconds: (\d+)", path.read_text())
    ]
    arguments = yaml.safe_load((HELM / "upstream" / "cluster-autoscaler.yaml").read_text())["extraArgs"]
    assert len(graces) > 5
    assert arguments["max-graceful-termination-sec"] > max(graces)


@cache
def rendered(name: str) -> tuple[dict[str, Any], ...]:
    """Return the manifests of an upstream chart with our values."""
    folder = os.environ.get("UPSTREAM_CHARTS_DIR")
    if not folder:
        pytest.skip(f"upstream chart {name}: UPSTREAM_CHARTS_DIR is not set")
    chart = Path(folder) / name
    facts = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert (facts["name"], facts["version"]) == (name, BY_NAME[name]["version"])
    done = subprocess.run(
        [tool("helm"), "template", name, chart, "-n", BY_NAME[name]["namespace"], "--include-crds",
         "-f", HELM / "upstream" / f"{name}.yaml", "-f", "-"],
        input=yaml.safe_dump(PROVEN_BY_CLUSTER_VALUES.get(name, {})),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return tuple(one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one)


def workload_of(name: str) -> dict[str, Any]:
    resource, workload = BY_NAME[name]["workload"].split("/")
    (found,) = (
        one
        for one in rendered(name)
        if (one["kind"].lower() + "s", one["metadata"]["name"]) == (resource, workload)
    )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_chart_takes_our_values_and_makes_the_workload_that_deploy_looks_for(name: str) -> None:
    """A chart without a schema ignores a misspelt value, so every top-level key must be known."""
    found = workload_of(name)
    assert found["metadata"]["labels"]["helm.sh/chart"] == f"{name}-{BY_NAME[name]['version']}"
    ours = yaml.safe_load((HELM / "upstream" / f"{name}.yaml").read_text())
    (container, *_) = found["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == ours["resources"]
    known = yaml.safe_load((Path(os.environ["UPSTREAM_CHARTS_DIR"]) / name / "values.yaml").read_text())
    given = ours.keys() | PROVEN_BY_CLUSTER_VALUES.get(name, {}).keys()
    assert given <= known.keys()


@pytest.mark.parametrize("name", TERRAFORM_FILES)
def test_a_controller_uses_the_service_account_that_terraform_gives_rights_to(name: str) -> None:
    account = workload_of(name)["spec"]["template"]["spec"]["serviceAccountName"]
    wanted = CONTRACT["controllers"][name]
    assert (BY_NAME[name]["namespace"], account) == (wanted["namespace"], wanted["service_account"])
    words = yaml.safe_dump(workload_of(name))
    assert "llm-prod" in words
    assert "eu-central-1" in words


def test_the_device_plugin_runs_on_the_nodes_of_the_gpu_pool() -> None:
    spec = workload_of("nvidia-device-plugin")["spec"]["template"]["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    pool = CONTRACT["pools"]["gpu"]

    def holds(expression: dict[str, Any]) -> bool:
        return bool(pool["labels"].get(expression["key"]) in expression.get("values", []))

    assert any(all(map(holds, term["matchExpressions"])) for term in terms["nodeSelectorTerms"])
    tolerated = {(one.get("key"), one.get("effect")) for one in spec["tolerations"]}
    assert {(taint["key"], taint["effect"]) for taint in pool["taints"]} <= tolerated


def test_the_node_exporter_runs_on_tainted_nodes_too() -> None:
    spec = workload_of("prometheus-node-exporter")["spec"]["template"]["spec"]
    assert {"operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]


def test_the_node_autoscaler_is_of_the_clusters_minor_version() -> None:
    image = workload_of("cluster-autoscaler")["spec"]["template"]["spec"]["containers"][0]["image"]
    variables = (ROOT / "infrastructure" / "environments" / "prod.tfvars").read_text()
    (minor,) = re.findall(r'^kubernetes_version\s*=\s*"([\d.]+)"', variables, re.MULTILINE)
    assert f":v{minor}." in image


def kept_pods() -> Iterator[tuple[str, str, str]]:
    """Yield job, pod label and port name of each exporter that Prometheus scrapes."""
    for job in cluster_configuration("rules")["scrape_configs"]:
        if job["job_name"] in ("kube-state-metrics", "node-exporter"):
            label, port = job["relabel_configs"][0]["regex"].split(";")
            yield job["job_name"], label, port


@pytest.mark.parametrize(("job", "label", "port"), list(kept_pods()))
def test_prometheus_finds_the_exporters_pods(job: str, label: str, port: str) -> None:
    name = "kube-state-metrics" if job == "kube-state-metrics" else "prometheus-node-exporter"
    template = workload_of(name)["spec"]["template"]
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == label
    ports = [one["name"] for part in template["spec"]["containers"] for one in part["ports"]]
    assert port in ports
    for environment in ("dev", "prod"):
        values = yaml.safe_load((HELM / "environments" / environment / "prometheus.yaml").read_text())
        assert BY_NAME[name]["namespace"] in values["namespaces"]


def test_kube_state_metrics_collects_what_alerts_read() -> None:
    """Its collectors are limited to three kinds of objects."""
    (container,) = workload_of("kube-state-metrics")["spec"]["template"]["spec"]["containers"]
    (resources,) = (one for one in container["args"] if one.startswith("--resources="))
    assert resources == "--resources=pods,nodes,horizontalpodautoscalers"
    (job,) = (
        one
        for one in cluster_configuration("rules")["scrape_configs"]
        if one["job_name"] == "kube-state-metrics"
    )
    series = job["metric_relabel_configs"][0]["regex"].split("|")
    kinds = ("kube_pod_", "kube_node_", "kube_horizontalpodautoscaler_")
    assert [one for one in series if not one.startswith(kinds)] == []


def test_runbooks_name_workloads_in_their_namespaces() -> None:
    """Every `kubectl -n NAMESPACE ... KIND/NAME` of a runbook finds the workload of a release or of an upstream chart."""
    text = "\n".join(path.read_text() for path in (ROOT / "docs" / "runbooks").glob("*.md"))
    named = set(
        re.findall(r"-n ([a-z-]+) [^`\n]*?\b(?:ds|deploy|deployment|daemonset)s?/([a-z][a-z-]+)", text)
    )
    releases = yaml.safe_load((HELM / "releases.yaml").read_text())["releases"]
    known = {(chart["namespace"], chart["workload"].split("/")[1]) for chart in UPSTREAM}
    known |= {(release["namespace"], release["chart"].removeprefix("llm-")) for release in releases}
    assert len(named) > 2
    assert named - known == set()
