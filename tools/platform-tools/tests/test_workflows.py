"""The workflows of .github pass actionlint, and their commands exist in this repository."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.programs import require

ROOT = Path(__file__).resolve().parents[3]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            for step in job["steps"]:
                yield f"{path.name}: {name}", step


@pytest.mark.programs
@pytest.mark.timeout(400)
def test_actionlint_and_shellcheck_find_nothing() -> None:
    require("go", "install it: apt-get install --no-install-recommends golang-go")
    version = yaml.safe_load((ROOT / "versions.yaml").read_text())["local_stack"]["actionlint"]["version"]
    folder = ROOT / ".run/tools" / f"actionlint-{version}"
    if not (folder / "actionlint").exists():
        module = f"github.com/rhysd/actionlint/cmd/actionlint@v{version}"
        subprocess.run(
            ["go", "install", module], env={**os.environ, "GOBIN": str(folder)}, check=True, timeout=300
        )
    path = f"{ROOT / '.venv-tools/bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [folder / "actionlint"], cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_make_target_and_script_of_a_step_exists() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    found = 0
    for where, step in steps():
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            assert target in targets, f"{where}: make {target}"
            found += 1
        for script in re.findall(r"(?:python3 )?(scripts/[a-z-]+|\.ci/run)", step.get("run", "")):
            assert os.access(ROOT / script, os.X_OK), f"{where}: {script}"
            found += 1
    assert found > 8


def test_no_job_has_more_than_the_rights_it_names_and_actions_have_a_version() -> None:
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}, path.name
    for where, step in steps():
        if "uses" in step:
            assert re.fullmatch(r"[\w./-]+@v\d+", step["uses"]), f"{where}: {step['uses']}"


def test_images_of_the_release_are_those_of_make_images() -> None:
    release = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text())
    ours = {*release["env"]["IMAGES"].split(), release["jobs"]["engine"]["env"]["IMAGES"]}
    charts = {
        name
        for values in (ROOT / "helm").glob("*/values.yaml")
        for name in re.findall(r"repository: llm-platform/([\w-]+)", values.read_text())
    }
    assert charts <= ours


def test_renovate_finds_every_image_and_every_chart_of_other_projects() -> None:
    managers = json.loads((ROOT / "renovate.json").read_text())["customManagers"]
    images, upstream = (re.sub(r"\(\?<(\w+)>", r"(?P<\1>", one["matchStrings"][0]) for one in managers)
    known = yaml.safe_load((ROOT / "versions.yaml").read_text())["images"]
    assert len(re.findall(images, (ROOT / "versions.yaml").read_text())) == len(known)
    releases = (ROOT / "helm/releases.yaml").read_text()
    assert len(re.findall(upstream, releases)) == len(yaml.safe_load(releases)["upstream"])
