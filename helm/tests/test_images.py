"""What the images are built from: locked with hashes, the versions that were tested, and clean Dockerfiles."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted(ROOT.glob("services/*/Dockerfile*"))
PIN = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z0-9,]+\])?==([^\s;\\]+)", re.MULTILINE)


def pins(path: Path) -> dict[str, str]:
    return dict(PIN.findall(path.read_text()))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name + path.suffix)
def test_an_image_has_exactly_the_versions_that_were_tested(dockerfile: Path) -> None:
    service = dockerfile.parent
    lock = ROOT / "requirements" / "images" / f"{service.name}.lock"
    assert f"COPY requirements/images/{service.name}.lock" in dockerfile.read_text()
    assert "--require-hashes" in dockerfile.read_text()
    found, tested = pins(lock), pins(ROOT / "requirements" / "platform.lock")
    assert {name: tested.get(name) for name in found} == found
    wanted = tomllib.loads((service / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[=<>~!; ]", text)[0].lower() for text in wanted}
    assert names <= {name.lower() for name in found}
    assert "--hash=sha256:" in lock.read_text()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name + path.suffix)
def test_a_dockerfile_is_clean_and_runs_as_nobody(dockerfile: Path) -> None:
    hadolint = ROOT / ".venv-tools" / "bin" / "hadolint"
    if not hadolint.exists():
        pytest.fail("no .venv-tools: python3 scripts/install-dependencies tools")
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    text = dockerfile.read_text()
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)
    # The engine's command comes from the chart; the others' is their own.
    assert re.search(r"^ENTRYPOINT \[", text, re.MULTILINE), "no shell between the signal and the process"


def test_there_are_dockerfiles() -> None:
    assert {path.parent.name for path in DOCKERFILES} >= {"router-service", "edge-gateway"}
