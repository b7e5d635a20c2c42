"""What every release of every environment renders to, beside what it rendered to: a review sees a change's effect.

UPDATE_GOLDENS=1 pytest helm/tests/test_goldens.py rewrites them (make generate does).
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes_tools import tool
from platform_deploy.releases import Release, releases_of

pytestmark = pytest.mark.service

HELM = Path(__file__).resolve().parents[1]
GOLDENS = Path(__file__).parent / "goldens"
CASES = [(environment, release) for environment in ("dev", "kind", "prod")
         for release in releases_of(HELM, environment, [])]  # fmt: skip
HANDED_OVER = {
    "global": {
        "registry": "registry.example/llm-platform",
        "region": "eu-central-1",
        "buckets": {"models": "models.example", "logs": "logs.example", "traces": "traces.example"},
    }
}
LONG_LINES = 30


def shortened(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out files that have their homes, and goldens, elsewhere, and the checksums of them."""
    if document["kind"] == "ConfigMap":
        for name, text in document["data"].items():
            if text.count("\n") > LONG_LINES or len(text) > 4000:
                document["data"][name] = "(a file with a home of its own)"
    spec = document.get("spec") or {}
    template = spec.get("template") if isinstance(spec, dict) else None
    annotations = (template or {}).get("metadata", {}).get("annotations", {})
    for name in annotations:
        if name.startswith("checksum/"):
            annotations[name] = "(a checksum)"
    return document


def render(environment: str, release: Release, folder: Path) -> str:
    words = release.words()
    if environment != "kind":
        (folder / "handed-over.yaml").write_text(yaml.safe_dump(HANDED_OVER))
        words += ["-f", str(folder / "handed-over.yaml")]
    done = subprocess.run(
        [tool("helm"), "template", *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    documents = [shortened(one) for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]
    return yaml.safe_dump_all(documents, sort_keys=True, width=110)


@pytest.mark.parametrize(
    ("environment", "release"), CASES, ids=[f"{environment}-{release.name}" for environment, release in CASES]
)
def test_a_release_renders_as_it_did(environment: str, release: Release, tmp_path: Path) -> None:
    golden = GOLDENS / environment / f"{release.name}.yaml"
    found = render(environment, release, tmp_path)
    if os.environ.get("UPDATE_GOLDENS") == "1":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text(), (
        f"{golden.relative_to(HELM)} differs: make generate, and read the diff"
    )


def test_there_is_no_golden_of_a_release_that_is_gone() -> None:
    there = {(path.parent.name, path.stem) for path in GOLDENS.glob("*/*.yaml")}
    assert there == {(environment, release.name) for environment, release in CASES}
