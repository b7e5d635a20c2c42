"""Values that are legal and unusual: names like numbers, null, empty collections, long names, versions with metadata.

A chart renders them into objects that Kubernetes accepts, or Helm refuses them in a sentence that names the value.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import CHARTS, HELM, merged, nested, read
from harness.kubernetes.charts import EXAMPLES, ROOT, containers, pod_specs
from harness.kubernetes.tools import tool
from platform_tools.deploy.needs import CRD_VERSIONS

pytestmark = pytest.mark.programs

VALIDATE = ROOT / ".venv-tools/bin/kubernetes-validate"
LIKE_A_NUMBER = "1e3"
"""A valid name of a release, namespace, Secret or class, which YAML without quotes reads as 1000."""
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LONGEST = {"StatefulSet": 52}
"""Kubernetes adds a revision's hash of 11 characters to a StatefulSet's name, in a label of its pods."""
# Strings that are not free: a template or a program reads their form.
WITH_A_FORM = re.compile(
    r"(^|\.)(image\w*|agentImage|testImage|exporter|config|settings|rules|limits|resources|persistence\.size|retention"
    r"|maxMemory|interval|url|source|model|rendered|envoyYaml|backend|storage|ipFamilyPolicy|type|kind|device"
    r"|nameOverride|fullnameOverride|namespaceOverride|whenUnavailable|gpuResource)(\.|$)"
)


def values_of(chart: str) -> dict[str, Any]:
    return dict(read(HELM / "tests/options" / f"{chart}.yaml").get("base", {}))


def template(chart: str | Path, values: Mapping[str, Any], release: str = "r", namespace: str = "llm") -> Any:
    return subprocess.run(
        [tool("helm"), "template", release, HELM / chart, "-n", namespace, "-f", "-",
         *(f"--api-versions={version}" for version in CRD_VERSIONS)],
        input=json.dumps(values), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def rendered(chart: str | Path, values: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    done = template(chart, values, *names)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]


def accepted(documents: list[dict[str, Any]], folder: Path) -> None:
    """Check documents strictly against the schemas of Kubernetes."""
    (folder / "all.yaml").write_text(yaml.safe_dump_all(documents))
    done = subprocess.run(
        [VALIDATE, "-k", "1.35", "--strict", folder / "all.yaml"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def options(chart: str) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield each option of a chart, mappings before what is below them, with its default and schema."""

    def below(values: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> Iterator[Any]:
        for key, value in values.items():
            own = schema.get("properties", {}).get(key, {})
            yield f"{path}{key}", value, own
            if isinstance(value, dict) and "properties" in own:
                yield from below(value, own, f"{path}{key}.")

    schema = json.loads((HELM / chart / "values.schema.json").read_text())
    yield from below(read(HELM / chart / "values.yaml"), schema, "")


def names_like_numbers(chart: str) -> dict[str, Any]:
    """Return the chart's values with every free string replaced."""
    values: dict[str, Any] = {}
    for option, _, schema in options(chart):
        fits = re.search(schema.get("pattern", ""), LIKE_A_NUMBER)
        if schema.get("type") == "string" and fits and not WITH_A_FORM.search(option):
            values = merged(values, nested(option, LIKE_A_NUMBER))
    return merged(values_of(chart), values)


@pytest.mark.parametrize("chart", CHARTS)
def test_names_like_numbers_stay_text(chart: str, tmp_path: Path) -> None:
    documents = rendered(chart, names_like_numbers(chart), LIKE_A_NUMBER, "007")
    accepted(documents, tmp_path)
    for one in documents:
        assert one["metadata"].get("namespace", "007") in ("007", LIKE_A_NUMBER, "llm", "observability")
        labels = one["metadata"]["labels"]
        assert all(isinstance(value, str) for value in labels.values()), labels
        for selected in (one.get("spec") or {}).get("selector", {}), labels:
            assert all(not isinstance(value, int | float) for value in selected.values()), selected


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: f"{file.parents[1].name}/{file.stem}")
def test_a_namespace_like_a_number_stays_text(example: Path, tmp_path: Path) -> None:
    """Also in what only an example turns on."""
    accepted(rendered(example.parents[1].name, read(example), "r", "007"), tmp_path)


@pytest.mark.parametrize("chart", CHARTS)
def test_empty_collections_render(chart: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {}
    for option, default, schema in options(chart):
        empty = default == [] or (default == {} and "properties" not in schema)
        if empty and not schema.get("minItems") and option not in values_of(chart):
            values = merged(values, nested(option, type(default)()))
    accepted(rendered(chart, merged(values, values_of(chart))), tmp_path)


def nullable(chart: str) -> Iterator[str]:
    """Yield the options whose default is empty, so that null means the same; not those that a program reads."""
    for option, default, _ in options(chart):
        read_by_a_program = re.match(r"(config|rules|settings|limits)\b", option)
        if default in ({}, [], "", None) and option not in values_of(chart) and not read_by_a_program:
            yield option


@pytest.mark.parametrize("chart", CHARTS)
def test_null_is_the_same_as_an_empty_value(chart: str) -> None:
    values: dict[str, Any] = {}
    for option in nullable(chart):
        values = merged(values, nested(option, None))
    assert len(values) > 2
    assert rendered(chart, merged(values, values_of(chart))) == rendered(chart, values_of(chart))


@pytest.mark.full
@pytest.mark.parametrize("chart", CHARTS)
def test_null_is_rendered_or_refused_by_name(chart: str) -> None:
    """Helm deletes a default whose value is null. A template that reads it must not fail with an error of Go."""
    wrong = []
    for option, _, _ in options(chart):
        done = template(chart, merged(values_of(chart), nested(option, None)))
        key = option.rpartition(".")[2]
        refused = re.search(
            rf"missing property '{key}'|missing properties .*'{key}'|\b{re.escape(option)}\b.*:", done.stderr
        )
        if (done.returncode and not refused) or "<no value>" in done.stdout or "nil pointer" in done.stderr:
            wrong.append(f"{option}: {done.stderr[-200:]}")
    assert wrong == []


@pytest.mark.parametrize("key", ["nameOverride", "fullnameOverride"])
@pytest.mark.parametrize("chart", CHARTS)
def test_the_longest_names_and_a_long_release_are_valid(chart: str, key: str) -> None:
    schema = json.loads((HELM / chart / "values.schema.json").read_text())["properties"][key]
    lengths = [number for number in range(1, 64) if re.search(schema["pattern"], "a" * number)]
    more = {key: "a" * max(lengths), "serviceMonitor": {"enabled": True}}
    if "serviceMonitor" not in read(HELM / chart / "values.yaml"):
        more.pop("serviceMonitor")
    for one in rendered(chart, merged(values_of(chart), more), "r" * 53):
        name, kind = one["metadata"]["name"], one["kind"]
        assert NAME.fullmatch(name), f"{kind}: {name}"
        assert len(name) <= LONGEST.get(kind, 63), f"{kind}: {name} has {len(name)} characters"
        places = [one["metadata"], ((one.get("spec") or {}).get("template") or {}).get("metadata", {})]
        for value in [value for place in places for value in place.get("labels", {}).values()]:
            assert LABEL.fullmatch(value), f"{kind}: {value}"


@pytest.mark.parametrize("chart", CHARTS)
def test_a_version_with_build_metadata_makes_valid_labels(chart: str, tmp_path: Path) -> None:
    version = "1.2.3-rc.1+build.5"
    packed = [
        tool("helm"),
        "package",
        HELM / chart,
        "--version",
        version,
        "--app-version",
        version,
        "-d",
        tmp_path,
    ]
    done = subprocess.run(packed, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    documents = rendered(package, values_of(chart))
    for one in documents:
        for key, value in one["metadata"]["labels"].items():
            assert LABEL.fullmatch(value), f"{one['kind']}: {key}: {value}"
    for spec in pod_specs(documents):
        for container in containers(spec):
            assert "+" not in container["image"], "a tag may have no plus sign"


@pytest.mark.parametrize("chart", CHARTS)
def test_one_registry_and_pull_secret_reach_every_container(chart: str) -> None:
    """Both forms of a pull secret: the charts of others take a plain name or a mapping."""
    mirror = "registry.inside:5000/mirror/deep"
    values = {"imageRegistry": mirror, "imagePullSecrets": ["plain", {"name": "mapping"}]}
    for spec in pod_specs(rendered(chart, merged(values_of(chart), {"global": values}))):
        assert spec["imagePullSecrets"] == [{"name": "plain"}, {"name": "mapping"}]
        for container in containers(spec):
            path = container["image"].removeprefix(f"{mirror}/")
            assert path != container["image"]
            assert not re.match(r"[^/]*[.:][^/]*/", path), "the host of the original registry is dropped"


@pytest.mark.parametrize("chart", CHARTS)
def test_every_image_has_the_same_keys(chart: str) -> None:
    images = {
        option: value for option, value, _ in options(chart)
        if isinstance(value, dict) and "repository" in value
    }  # fmt: skip
    for option, value in images.items():
        assert {"registry", "repository", "tag", "digest"} <= value.keys(), option
