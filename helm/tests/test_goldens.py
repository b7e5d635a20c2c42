"""The rendered releases, for review: prod in full, every other environment as its differences from prod.

`make generate` rewrites the goldens (UPDATE_GOLDENS=1 pytest helm/tests/test_goldens.py).
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import flattened
from harness.kubernetes.tools import tool
from platform_tools.deploy.releases import Release, releases_of

pytestmark = pytest.mark.programs

HELM = Path(__file__).resolve().parents[1]
GOLDENS = Path(__file__).parent / "goldens"
WHOLE = "prod"
OTHERS = sorted(
    path.name for path in (HELM / "environments").iterdir() if path.is_dir() and path.name != WHOLE
)
RELEASES = releases_of(HELM, WHOLE, [])
HANDED_OVER = {
    "global": {
        "registry": "registry.example/llm-platform",
        "region": "eu-central-1",
        "buckets": {"models": "models.example", "logs": "logs.example", "traces": "traces.example"},
    }
}
LONG_LINES = 30


def shortened(document: dict[str, Any]) -> dict[str, Any]:
    """Omit files that have goldens elsewhere, and their checksums."""
    if document["kind"] == "ConfigMap":
        for name, text in document["data"].items():
            if text.count("\n") > LONG_LINES or len(text) > 4000:
                document["data"][name] = "(a file with a home elsewhere)"
    spec = document.get("spec") or {}
    template = spec.get("template") if isinstance(spec, dict) else None
    annotations = (template or {}).get("metadata", {}).get("annotations", {})
    for name in annotations:
        if name.startswith("checksum/"):
            annotations[name] = "(a checksum)"
    return document


def render(release: Release) -> list[dict[str, Any]]:
    """Return the release's documents, shortened."""
    done = subprocess.run(
        [tool("helm"), "template", *release.words(), "-f", "-"], input=yaml.safe_dump(HANDED_OVER),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [shortened(one) for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]


def fields_of(release: Release) -> dict[str, str]:
    """Return every field by its path; the names of release and objects do not distinguish environments."""
    found = {}
    for document in render(release):
        kind, name = document["kind"], document["metadata"]["name"]
        for path, value in flattened(document, f"{kind}/{name}"):
            found[path] = str(value)
    return found


def differences(environment: str) -> Iterator[str]:
    """Yield the differences from prod, one line each: missing releases, and fields of the others."""
    own = {release.name: release for release in releases_of(HELM, environment, [])}
    whole = {release.name: release for release in RELEASES}
    yield from (f"- release {name}" for name in whole if name not in own)
    for name, release in own.items():
        if name not in whole:
            yield f"+ release {name}"
        before = fields_of(whole[name]) if name in whole else {}
        after = fields_of(release)
        yield from (f"{name}: - {path}" for path in before if path not in after)
        yield from (f"{name}: {path} = {value}" for path, value in after.items() if before.get(path) != value)


def compare(golden: Path, found: str) -> None:
    if os.environ.get("UPDATE_GOLDENS") == "1":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text(), (
        f"{golden.relative_to(HELM)} differs: make generate, and read the diff"
    )


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_release_of_prod_renders_as_it_did(release: Release) -> None:
    compare(
        GOLDENS / WHOLE / f"{release.name}.yaml",
        yaml.safe_dump_all(render(release), sort_keys=True, width=110),
    )


@pytest.mark.parametrize("environment", OTHERS)
def test_an_environment_differs_from_prod_as_it_did(environment: str) -> None:
    compare(GOLDENS / f"{environment}.txt", "".join(f"{line}\n" for line in differences(environment)))


def test_there_is_no_golden_of_what_is_gone() -> None:
    there = {str(path.relative_to(GOLDENS)) for path in GOLDENS.rglob("*") if path.is_file()}
    assert there == {f"{WHOLE}/{release.name}.yaml" for release in RELEASES} | {f"{e}.txt" for e in OTHERS}
