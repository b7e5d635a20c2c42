"""The rules of `ct lint`: metadata of a chart, YAML style, and a higher version after a change."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import CHARTS, HELM, UMBRELLA, read
from harness.kubernetes.tools import ToolMissing

pytestmark = pytest.mark.programs

ROOT = HELM.parent
ALL = [*CHARTS, UMBRELLA]
YAMLLINT = ROOT / ".venv-tools/bin/yamllint"
SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
TEXTS = ("name", "description", "home", "icon", "version", "appVersion", "kubeVersion", "type", "apiVersion")


def faults(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield each rule of Chart.yaml that `facts` break."""
    for key in TEXTS:
        if not isinstance(facts.get(key), str) or not facts[key]:
            yield f"{key}: not a text"
    for key in ("home", "icon"):
        if not re.match(r"https?://[^/\s]+/\S+", str(facts.get(key))):
            yield f"{key}: not a URL"
    if not SEMVER.fullmatch(str(facts.get("version"))):
        yield f"version: {facts.get('version')} is not MAJOR.MINOR.PATCH"
    for key in ("keywords", "sources", "maintainers"):
        if not isinstance(facts.get(key), list) or not facts[key]:
            yield f"{key}: not a list with an entry"
    for maintainer in facts.get("maintainers") or []:
        if not maintainer.get("name") or not (maintainer.get("url") or maintainer.get("email")):
            yield f"maintainers: {maintainer} needs a name and a url or an email"
    if not all(isinstance(value, str) for value in facts.get("annotations", {}).values()):
        yield "annotations: not texts"


@pytest.mark.parametrize("chart", ALL)
def test_metadata_is_complete(chart: str) -> None:
    facts = read(HELM / chart / "Chart.yaml")
    assert list(faults(facts)) == []
    assert facts["name"] == chart, "helm package names the archive after it"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"maintainers": [{"name": "A"}]}, "maintainers: {'name': 'A'} needs a name and a url or an email"),
        ({"version": "1.0"}, "version: 1.0 is not MAJOR.MINOR.PATCH"),
        ({"icon": "icon.svg"}, "icon: not a URL"),
        ({"sources": []}, "sources: not a list with an entry"),
        ({"annotations": {"artifacthub.io/prerelease": True}}, "annotations: not texts"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_incomplete_metadata_is_found(change: Mapping[str, Any], fault: str) -> None:
    assert list(faults({**read(HELM / "console/Chart.yaml"), **change})) == [fault]


def lint(*paths: Path) -> subprocess.CompletedProcess[str]:
    if not YAMLLINT.exists():
        raise ToolMissing("no .venv-tools: python3 scripts/install-dependencies tools")
    return subprocess.run(
        [YAMLLINT, "--strict", "-f", "parsable", "-c", HELM / "lintconf.yaml", *paths],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_yaml_files_of_charts_have_the_style_of_ct() -> None:
    done = lint(
        *(HELM / chart / name for chart in ALL for name in ("Chart.yaml", "values.yaml")),
        *HELM.glob("*/examples/*.yaml"), *HELM.glob("environments/*/*.yaml"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_a_duplicate_key_and_trailing_spaces_are_found(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("one: 1 \none: 2\n")
    done = lint(file)
    assert done.returncode == 1
    assert "(trailing-spaces)" in done.stdout
    assert "(key-duplicates)" in done.stdout


def git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def last_release(root: Path) -> str:
    """Return the last release tag before or at HEAD, or an empty text."""
    return git(root, "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*")


def not_raised(root: Path, tag: str) -> list[str]:
    """Return each chart that differs from the release `tag` and does not have a higher version."""
    found = []
    for path in sorted(root.glob("helm/*/Chart.yaml")):
        folder = path.parent.relative_to(root)
        released = yaml.safe_load(git(root, "show", f"{tag}:{folder}/Chart.yaml") or "{}").get("version")
        version = yaml.safe_load(path.read_text())["version"]
        if (
            released
            and git(root, "diff", "--name-only", tag, "--", str(folder))
            and not above(version, released)
        ):
            found.append(
                f"{folder.name} changed since {tag} and has version {version}: raise it above {released}"
            )
    return found


def above(version: str, other: str) -> bool:
    """Return whether a version is higher. A version without a suffix is higher than one with it."""

    def order(text: str) -> tuple[tuple[int, ...], bool, str]:
        numbers, _, suffix = text.partition("+")[0].partition("-")
        return tuple(int(number) for number in numbers.split(".")), not suffix, suffix

    return order(version) > order(other)


def test_a_chart_that_changed_since_the_last_release_has_a_higher_version() -> None:
    tag = last_release(ROOT)
    if not tag:
        pytest.skip("no release tag v* in this checkout: no version to compare with")
    assert not_raised(ROOT, tag) == []


def test_a_version_that_was_not_raised_is_found(tmp_path: Path) -> None:
    chart = tmp_path / "helm/one"
    (chart / "templates").mkdir(parents=True)
    facts, template = chart / "Chart.yaml", chart / "templates/service.yaml"
    facts.write_text("name: one\nversion: 0.9.0\n")
    template.write_text("kind: Service\n")
    person = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, *person, "commit", "-qm", "one")
    assert last_release(tmp_path) == ""
    git(tmp_path, "tag", "v0.9.0")
    assert last_release(tmp_path) == "v0.9.0"
    assert not_raised(tmp_path, "v0.9.0") == []
    template.write_text("kind: Service\nspec: {}\n")
    assert not_raised(tmp_path, "v0.9.0") == [
        "one changed since v0.9.0 and has version 0.9.0: raise it above 0.9.0"
    ]
    facts.write_text("name: one\nversion: 0.10.0\n")
    assert not_raised(tmp_path, "v0.9.0") == []


@pytest.mark.parametrize(
    ("version", "other", "higher"),
    [
        ("0.10.0", "0.9.1", True), ("1.0.0", "1.0.0", False), ("1.0.0", "1.0.0-rc.1", True),
        ("1.0.0-rc.1", "1.0.0", False), ("0.9.9", "1.0.0", False),
    ],
)  # fmt: skip
def test_versions_are_compared_by_their_numbers(version: str, other: str, higher: bool) -> None:
    assert above(version, other) is higher
