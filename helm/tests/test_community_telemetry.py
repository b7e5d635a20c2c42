"""`scripts/deploy --telemetry community`: the community's charts first, ours left out, and nothing in the way."""

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.charts import HELM
from harness.kubernetes.deploy_script import HANDED_OVER, Script, releases_in
from harness.kubernetes.fake_api_server import FakeKubernetes

pytestmark = pytest.mark.programs

DOCUMENT: dict[str, Any] = yaml.safe_load((HELM / "releases.yaml").read_text())
COMMUNITY: list[dict[str, Any]] = DOCUMENT["community"]
OWN = {one["name"] for one in DOCUMENT["releases"] if one.get("telemetry") == "own"}
PLATFORM: dict[str, Any] = yaml.safe_load((HELM / "community" / "platform.yaml").read_text())


def values_of(line: str) -> list[dict[str, Any]]:
    """Return the values files of a helm command."""
    words = shlex.split(line)
    return [yaml.safe_load(Path(file).read_text()) for flag, file in pairwise(words) if flag == "-f"]


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_the_communitys_charts_come_first_and_replace_ours(
    environment: str, script: Script, cluster: FakeKubernetes
) -> None:
    done = script("deploy", environment, "-f", str(script.values), "--telemetry", "community")
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line.split()[2] for line in script.installed]
    assert names == [
        *(chart["name"] for chart in COMMUNITY),
        *(name for name in releases_in(environment) if name not in OWN),
    ]
    for line, chart in zip(script.installed, COMMUNITY, strict=False):
        assert f"{chart['chart']} --repo {chart['repository']} --version {chart['version']} " in line
        assert str(script.values) not in line, "values of our charts are not those of others"
    by_name = {line.split()[2]: values_of(line) for line in script.installed}
    buckets = HANDED_OVER["global"]["buckets"]
    assert by_name["loki"][0]["loki"]["storage"]["bucketNames"]["chunks"] == buckets["logs"]
    trace = {
        "bucket": buckets["traces"],
        "region": "eu-central-1",
        "endpoint": "s3.eu-central-1.amazonaws.com",
    }
    assert by_name["tempo"][0]["tempo"]["storage"]["trace"]["s3"] == trace
    assert PLATFORM["observability"] in by_name["observability"]
    assert PLATFORM["alloy"] in by_name["alloy"]
    assert PLATFORM["router-service"] in by_name["router"]


def test_a_cluster_without_the_operator_is_no_obstacle_because_the_first_release_brings_it(
    script: Script, cluster: FakeKubernetes
) -> None:
    done = script("deploy", "dev", "-f", str(script.values), "--telemetry", "community", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "monitoring.coreos.com" not in done.stderr


def test_a_bucket_that_nobody_names_is_asked_for(script: Script, tmp_path: Path) -> None:
    done = script("deploy", "prod", "--telemetry", "community")
    assert done.returncode == 2
    assert "loki needs global.buckets.logs" in done.stderr
    assert script.installed == []


@pytest.mark.parametrize("environment", ["kind", "sim"])
def test_an_environment_without_them_is_refused_with_the_remedy(environment: str, script: Script) -> None:
    done = script("deploy", environment, "--telemetry", "community")
    assert done.returncode == 2
    assert f"{environment} has only our own telemetry charts" in done.stderr
    assert script.installed == []


@pytest.mark.parametrize(
    ("kind", "name", "chart"),
    [
        ("community", "loki", "llm-loki-0.2.0-rc.1"),
        ("community", "prometheus", "llm-prometheus-0.1.0"),
        ("own", "kps", "kube-prometheus-stack-88.5.3"),
        ("own", "tempo", "tempo-2.2.4"),
    ],
)
def test_a_release_of_the_other_kind_is_named_before_anything_is_installed(
    kind: str, name: str, chart: str, script: Script, cluster: FakeKubernetes
) -> None:
    script.listed.write_text(json.dumps([{"name": name, "namespace": "observability", "chart": chart}]))
    done = script("deploy", "prod", "-f", str(script.values), "--telemetry", kind)
    assert done.returncode == 1
    assert f"{name} in observability is of chart {chart}" in done.stderr
    assert f"helm uninstall {name} -n observability" in done.stderr
    assert script.installed == []


def test_releases_of_the_same_kind_and_of_others_are_not_in_the_way(
    script: Script, cluster: FakeKubernetes
) -> None:
    listed = [
        {"name": "kps", "namespace": "observability", "chart": "kube-prometheus-stack-88.5.3"},
        {"name": "loki", "namespace": "observability", "chart": "loki-18.11.0"},
        {"name": "prometheus", "namespace": "another-team", "chart": "llm-prometheus-0.1.0"},
        {"name": "router", "namespace": "llm", "chart": "router-service-0.1.0"},
    ]
    script.listed.write_text(json.dumps(listed))
    done = script("deploy", "prod", "-f", str(script.values), "--telemetry", "community", "--dry-run")
    assert done.returncode == 0, done.stderr


def test_undeploy_removes_either_kind(script: Script, cluster: FakeKubernetes) -> None:
    script("deploy", "dev", "-f", str(script.values), "--telemetry", "community")
    count = len(script.installed)
    done = script("undeploy", "dev")
    assert done.returncode == 0, done.stderr
    removed = [line.split()[1] for line in script.installed[count:]]
    assert {chart["name"] for chart in COMMUNITY} <= set(removed)
    assert removed[-1] == "kps", "the operator ends last"


def test_parts_name_releases_or_charts() -> None:
    known = {one[key] for one in DOCUMENT["releases"] for key in ("name", "chart")} | {"console"}
    assert set(PLATFORM) <= known
    for name in OWN:
        assert PLATFORM[name] == {"enabled": False}
