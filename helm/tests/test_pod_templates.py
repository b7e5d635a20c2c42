"""Rules for every pod template and object name, over all charts and environments."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import CHARTS, HELM, read
from harness.kubernetes.tools import tool

pytestmark = pytest.mark.programs

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
BASES: dict[str, dict[str, Any]] = {
    chart: read(HELM / "tests/options" / f"{chart}.yaml").get("base", {}) for chart in CHARTS
}
OF_A_VERSION = {"helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"}


def rendered(folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [tool("helm"), "template", "first", folder, "-n", "llm", "-f", "-"],
        input=yaml.safe_dump(values), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the pod template of each workload, and each bare pod."""
    for one in documents:
        if one["kind"] in WORKLOADS:
            yield one["metadata"]["name"], one["spec"]["template"]
        elif one["kind"] == "Pod":
            yield one["metadata"]["name"], one


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_of_another_version_restarts_no_pod(chart: str, tmp_path: Path) -> None:
    newer = tmp_path / chart
    shutil.copytree(HELM / chart, newer)
    facts = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(re.sub(r"(?m)^version: .*$", "version: 9.9.9", facts))
    before, after = (rendered(folder, BASES[chart]) for folder in (HELM / chart, newer))
    assert before != after
    assert list(pods(before)) == list(pods(after))
    for name, pod in pods(before):
        assert not OF_A_VERSION & pod["metadata"]["labels"].keys(), name


@pytest.mark.parametrize("chart", CHARTS)
def test_no_pod_gets_variables_of_services(chart: str) -> None:
    """A Service called vllm would set VLLM_PORT, which the engine reads as a setting."""
    for name, pod in pods(rendered(HELM / chart, BASES[chart])):
        assert pod["spec"]["enableServiceLinks"] is False, name


def test_templates_have_the_prefix_of_their_chart_and_no_two_charts_share_a_name() -> None:
    """In an umbrella chart, the templates of all charts share one namespace."""
    found: Counter[str] = Counter()
    for chart in CHARTS:
        for path in (HELM / chart / "templates").iterdir():
            for name in re.findall(r'define "([^"]+)"', path.read_text()):
                assert name.startswith(f"{chart}."), f"{path.relative_to(HELM)}: {name}"
                found[name] += 1
    assert {name for name, count in found.items() if count > 1} == set()


@pytest.mark.parametrize("chart", CHARTS)
def test_a_mirror_and_its_secret_reach_every_container(chart: str) -> None:
    """global.registry applies to our images, global.imageRegistry to all others, sidecars and test pods included."""
    registries = {
        "registry": "ours.example/llm",
        "imageRegistry": "mirror.example/hub",
        "imagePullSecrets": [{"name": "pull"}],
    }
    for name, pod in pods(rendered(HELM / chart, {**BASES[chart], "global": registries})):
        assert {"name": "pull"} in pod["spec"]["imagePullSecrets"], name
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert container["image"].startswith(("ours.example/llm/", "mirror.example/hub/")), container[
                "image"
            ]
            assert "docker.io" not in container["image"]
