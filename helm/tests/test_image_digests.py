"""versions.yaml is the source of the charts' images: `make generate` writes each version and each known digest."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.charts import CHARTS, EXAMPLES, HELM, ROOT, containers, helm, pod_specs
from platform_tools.images.versions import Image, images
from platform_tools.references import chart_docs
from platform_tools.references.chart_images import files_of
from podrunner.platform_images import repository_of

KNOWN = images(ROOT / "versions.yaml")
BASES = {"python", "vllm"}
"""Images that Dockerfiles build from; no pod runs them."""
PINNED = {
    name: dataclasses.replace(image, digest=f"sha256:{number:064x}")
    for number, (name, image) in enumerate(KNOWN.items(), 1)
}


def written(chart: Path, known: dict[str, Image], folder: Path) -> Path:
    """Return a copy of a chart that `make generate` would write from ``known``."""
    copy = shutil.copytree(chart, folder / chart.name, dirs_exist_ok=True)
    chart_docs.write([files_of(copy, known)])
    return copy


def images_of(chart: Path, example: Path) -> set[str]:
    """Return the images of other projects in the chart's pods."""
    done = helm("template", "release", chart, "--namespace", "llm", "-f", example)
    assert done.returncode == 0, done.stderr
    documents = [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]
    found = {container["image"] for spec in pod_specs(documents) for container in containers(spec)}
    return {image for image in found if not image.startswith("llm-platform/")}


def test_every_pod_runs_the_digest_of_versions_yaml(tmp_path: Path) -> None:
    expected = {f"{image.source}@{image.digest}" for name, image in PINNED.items() if name not in BASES}
    found = set()
    for example in EXAMPLES:
        chart = written(HELM / example.relative_to(HELM).parts[0], PINNED, tmp_path)
        found |= images_of(chart, example)
    assert found == expected


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_without_digests_the_charts_are_as_committed(chart: Path, tmp_path: Path) -> None:
    pinned = written(chart, PINNED, tmp_path)
    for path, text in files_of(pinned, KNOWN).items():
        assert yaml.safe_load(text) == yaml.safe_load((chart / path.name).read_text())
    for path, text in files_of(chart, KNOWN).items():
        assert text == path.read_text(), f"{path}: make generate"


def test_a_new_version_becomes_the_tag_and_the_app_version(tmp_path: Path) -> None:
    known = {name: dataclasses.replace(image, version="v99", digest="") for name, image in KNOWN.items()}
    expected = {f"{known[name].source}:v99" for name in ("prometheus", "alertmanager", "busybox")}
    chart = written(HELM / "llm-prometheus", known, tmp_path)
    examples = [one for one in EXAMPLES if one.is_relative_to(HELM / "llm-prometheus")]
    assert {image for example in examples for image in images_of(chart, example)} == expected


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("docker.io/library/redis:7.2", "docker.io/library/redis"),
        ("docker.io/library/redis@sha256:ab", "docker.io/library/redis"),
        ("localhost:5000/llm-platform/router-service", "localhost:5000/llm-platform/router-service"),
        ("localhost:5000/redis:7.2@sha256:ab", "localhost:5000/redis"),
    ],
)
def test_an_images_repository_has_no_tag_and_no_digest(image: str, repository: str) -> None:
    assert repository_of(image) == repository
