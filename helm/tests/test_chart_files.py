"""Files in charts: packages, shared parts, rules, scrape jobs and runbook links."""

import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.charts import (
    CHARTS,
    EXAMPLES,
    HELM,
    ROOT,
    containers,
    manifests,
    name_of,
    one,
    with_crds,
)
from harness.kubernetes.tools import tool
from observability.rules.scrape_cluster import CLUSTER_JOBS
from platform_tools.references import chart_docs
from platform_tools.references.shared_parts import files_of

pytestmark = pytest.mark.programs
WITH_FILES = sorted(path.parent.name for path in HELM.glob("*/files"))


def test_operators_get_the_same_jobs_and_rules_as_our_own_prometheus() -> None:
    documents = with_crds(
        "observability", "default.yaml", 'prometheusRule={"enabled": true}', 'podMonitors={"enabled": true}'
    )
    own = yaml.safe_load((HELM / "llm-prometheus/files/prometheus.yml").read_text())
    monitors = {
        document["metadata"]["name"]: document for document in documents if document["kind"] == "PodMonitor"
    }
    jobs = {job["job_name"] for job in own["scrape_configs"]}
    assert monitors.keys() == jobs - set(CLUSTER_JOBS), "kube-prometheus-stack scrapes the cluster itself"
    steps = monitors["vllm"]["spec"]["podMetricsEndpoints"][0]["relabelings"]
    assert {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "backend"} in steps
    (rules,) = (document for document in documents if document["kind"] == "PrometheusRule")
    files = [HELM / f"observability/files/rules/{name}.yml" for name in ("alerts", "recording")]
    wanted = [group["name"] for file in sorted(files) for group in yaml.safe_load(file.read_text())["groups"]]
    assert [group["name"] for group in rules["spec"]["groups"]] == wanted


def test_every_alert_links_to_a_runbook_where_the_chart_says() -> None:
    url = "https://git.example/blob/main/docs/runbooks"
    documents = manifests(
        "observability", HELM / "observability/examples/default.yaml",
        rules__runbooksUrl=json.dumps(f"{url}/"), rules__cluster="true",
    )  # fmt: skip
    rules = one(documents, "ConfigMap", "llm-platform-rules")["data"]
    assert rules.keys() == {"alerts.yml", "cluster.yml", "recording.yml"}
    links = [
        rule["annotations"]["runbook_url"]
        for text in rules.values()
        for group in yaml.safe_load(text)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert len(links) > 30
    for link in links:
        assert link.startswith(f"{url}/")
        assert (ROOT / "docs/runbooks" / link.removeprefix(f"{url}/")).is_file()


def test_every_alert_links_to_the_console_where_one_is_configured() -> None:
    documents = manifests(
        "observability", HELM / "observability/examples/default.yaml",
        rules__consoleUrl='"https://console.example/"', rules__cluster="true",
    )  # fmt: skip
    rules = one(documents, "ConfigMap", "llm-platform-rules")["data"]
    groups = [group for text in rules.values() for group in yaml.safe_load(text)["groups"]]
    links = [
        rule["annotations"]["console_url"] for group in groups for rule in group["rules"] if "alert" in rule
    ]
    assert len(links) > 30
    assert set(links) == {"https://console.example/why?window=5m&pool={{ $labels.pool }}"}


def test_nothing_that_is_installed_points_at_a_placeholder_of_ours() -> None:
    texts = [
        path
        for path in (ROOT / "services/observability").rglob("*")
        if path.suffix in (".yml", ".yaml", ".json")
    ]
    assert texts
    assert [name_of(path) for path in texts if "your-org" in path.read_text()] == []


def test_the_repository_has_no_symbolic_links() -> None:
    """An archive or a patch of the checkout may turn a link into a file that holds its target's name."""
    listed = subprocess.run(
        ["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []


@pytest.mark.parametrize("chart", WITH_FILES)
def test_a_packaged_chart_holds_its_files(chart: str, tmp_path: Path) -> None:
    """A pattern of .helmignore must not drop a file that a template reads."""
    done = subprocess.run(
        [tool("helm"), "package", HELM / chart, "--destination", tmp_path],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as packed:
        for path in sorted((HELM / chart / "files").rglob("*")):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                member = packed.extractfile(f"{chart}/{file.relative_to(HELM / chart)}")
                assert member is not None
                assert member.read() == file.read_bytes(), name_of(file)


@pytest.mark.parametrize("chart", CHARTS, ids=name_of)
def test_shared_parts_are_those_of_their_home(chart: Path) -> None:
    for path, text in files_of(chart).items():
        assert path.read_text() == text, f"{name_of(path)}: make generate"


@pytest.mark.parametrize("chart", chart_docs.charts(), ids=name_of)
def test_readme_and_metadata_of_a_chart_are_generated_from_its_values(chart: Path) -> None:
    for path, text in chart_docs.files_of(chart).items():
        assert path.read_text() == text, f"{name_of(path)}: make generate"
    facts = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert {
        "home",
        "icon",
        "sources",
        "maintainers",
        "keywords",
        "kubeVersion",
        "annotations",
    } <= facts.keys()


def test_every_scraped_port_is_one_that_a_chart_names() -> None:
    """Each job of prometheus.yml finds a container port by pod label and port name; after a rename it would find none."""
    named: set[tuple[str, str]] = set()
    for example in EXAMPLES:
        for document in manifests(example.parents[1].name, example):
            if document["kind"] not in ("Deployment", "StatefulSet", "DaemonSet"):
                continue
            template_ = document["spec"]["template"]
            labels = template_["metadata"]["labels"]
            for container in containers(template_["spec"]):
                for port in container.get("ports", []):
                    for label in ("name", "component"):
                        named.add((labels.get(f"app.kubernetes.io/{label}", ""), port["name"]))
    jobs = yaml.safe_load((HELM / "llm-prometheus/files/prometheus.yml").read_text())["scrape_configs"]
    missing = {}
    for job in jobs:
        if job["job_name"] in CLUSTER_JOBS:
            continue  # exporters of upstream charts, and the kubelet
        value, _, port = job["relabel_configs"][0]["regex"].partition(";")
        if (value, port) not in named:
            missing[job["job_name"]] = (value, port)
    assert missing == {}
