"""The chart llm-platform installs in one release what `scripts/deploy` installs in many."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import CHARTS, HELM, read
from harness.kubernetes.tools import tool
from harness.kubernetes.umbrella import umbrella
from platform_tools.deploy.releases import namespaces_of, releases_of
from platform_tools.references.umbrella import CHART, ENGINE, environment_files, parts

pytestmark = pytest.mark.programs

ENVIRONMENTS = sorted(path.stem for path in (CHART / "environments").glob("*.yaml"))
HANDED_OVER = {
    "global": {
        "registry": "registry.example/llm-platform",
        "region": "eu-central-1",
        "buckets": {"models": "models.example", "logs": "logs.example", "traces": "traces.example"},
    }
}
ENGINES = [part for part, chart in parts().items() if chart == ENGINE]


def helm(*words: object, values: dict[str, Any] | None = None) -> str:
    done = subprocess.run(
        [tool("helm"), *map(str, words)], input=yaml.safe_dump(values or {}), capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def plain(value: Any) -> Any:
    """Return a document without the labels that name its release: instance, chart and an engine's name."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {key: plain(below) for key, below in value.items() if key != "helm.sh/chart"}
    if "app.kubernetes.io/instance" in found:
        found["app.kubernetes.io/instance"] = "-test" * found["app.kubernetes.io/instance"].endswith("-test")
    name = found.get("app.kubernetes.io/name")
    if isinstance(name, str) and name.removesuffix("-test") in ENGINES:
        found["app.kubernetes.io/name"] = re.sub("^.*?(-test)?$", rf"{ENGINE}\1", name)
    return found


def documents(text: str, namespace: str) -> dict[tuple[str, str, str], Any]:
    """Return the documents by kind, namespace (none for cluster-wide kinds) and name."""
    found = {}
    for one in filter(None, yaml.load_all(text, yaml.CSafeLoader)):
        kind, facts = one["kind"], one["metadata"]
        space = "" if kind.startswith("Cluster") else facts.get("namespace", namespace)
        found[kind, space, facts["name"]] = plain(one)
    return found


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_one_release_renders_what_scripts_deploy_installs(environment: str) -> None:
    values = CHART / "environments" / f"{environment}.yaml"
    found = documents(
        helm(
            "template", "llm", umbrella(), "-n", "llm", "--set", "namespaces.create=true",
            "-f", values, "-f", "-", values=HANDED_OVER,
        ),
        "llm",
    )  # fmt: skip
    spaces = {key[2]: found.pop(key) for key in list(found) if key[0] == "Namespace"}
    releases = releases_of(HELM, environment, [])
    wanted: dict[tuple[str, str, str], Any] = {}
    for release in releases:
        wanted |= documents(
            helm("template", *release.words(), "-f", "-", values=HANDED_OVER), release.namespace
        )
    assert found.keys() == wanted.keys()
    for key, document in wanted.items():
        assert found[key] == document, key
    for namespace in namespaces_of(HELM, releases):
        if namespace["metadata"]["name"] != "llm":
            made = spaces[namespace["metadata"]["name"]]["metadata"]
            assert made["labels"] == namespace["metadata"]["labels"]


def test_it_wants_to_own_no_namespace_unless_told() -> None:
    """Its Secrets exist before it, so their namespaces do; Helm refuses to create what exists."""
    values = CHART / "environments/prod.yaml"
    text = helm("template", "llm", umbrella(), "-n", "llm", "-f", values, "-f", "-", values=HANDED_OVER)
    assert not [name for kind, _, name in documents(text, "llm") if kind == "Namespace"]


def test_its_environments_are_generated_from_those_of_scripts_deploy() -> None:
    for path, text in environment_files().items():
        assert path.read_text() == text, f"{path.relative_to(HELM)} is out of date: make generate"


def test_it_has_every_chart_at_its_version_and_a_switch_for_each() -> None:
    facts = read(CHART / "Chart.yaml")
    for one in facts["dependencies"]:
        assert one["version"] == read(HELM / one["name"] / "Chart.yaml")["version"]
        assert one["repository"] == f"file://../{one['name']}"
        assert one["condition"] == f"{one.get('alias', one['name'])}.enabled"
    assert {one["name"] for one in facts["dependencies"]} == set(CHARTS)
    assert set(parts()) < read(CHART / "values.yaml").keys()


def test_a_part_is_left_out_and_a_misspelled_one_is_refused() -> None:
    values = CHART / "environments/sim.yaml"
    text = helm(
        "template",
        "llm",
        umbrella(),
        "-n",
        "llm",
        "-f",
        values,
        "-f",
        "-",
        values={"grafana": {"enabled": False}},
    )
    assert not any(name == "grafana" for _, _, name in documents(text, "llm"))
    words = [tool("helm"), "template", "llm", umbrella(), "-f", values, "--set", "graphana.enabled=false"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode
    assert "graphana" in done.stderr


def test_two_engines_of_one_release_do_not_select_each_others_pods() -> None:
    text = helm(
        "template",
        "llm",
        umbrella(),
        "-n",
        "llm",
        "-f",
        CHART / "environments/prod.yaml",
        "-f",
        "-",
        values=HANDED_OVER,
    )
    engines = [
        one for one in yaml.load_all(text, yaml.CSafeLoader)
        if one and one["kind"] == "Deployment" and one["metadata"]["name"] in ENGINES
    ]  # fmt: skip
    assert len(engines) == 2
    one, other = (engine["spec"] for engine in engines)
    assert one["selector"]["matchLabels"].items() - other["template"]["metadata"]["labels"].items()


def test_its_package_renders_the_same_without_the_checkout(tmp_path: Path) -> None:
    helm("package", umbrella(), "-d", tmp_path)
    (package,) = tmp_path.glob("*.tgz")
    words = ("-n", "llm", "-f", CHART / "environments/sim.yaml")
    assert helm("template", "llm", package, *words) == helm("template", "llm", umbrella(), *words)
