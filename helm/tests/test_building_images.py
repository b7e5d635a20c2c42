"""`make images` and `scripts/pin-images`: the commands of builders and skopeo that they run.

Fake builders and a fake skopeo on PATH record their calls, because no container engine runs here.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from platform_tools.images.build import dockerfiles, platform_of

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools/platform-tools/src/platform_tools"
DIGEST = "sha256:" + "0123456789abcdef" * 4
BUILDER = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
[ "$1" = "$REFUSE" ] && { echo "${SAYS:-denied}" >&2; exit 1; }
case "$1 $2" in
  "push --digestfile") printf %s "$DIGEST" > "$3" ;;
  "inspect --format") for last; do :; done; echo "[\\"other@sha256:00\\",\\"${last%:*}@$DIGEST\\"]" ;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the files that the two programs read and write."""
    root = tmp_path / "tree"
    shutil.copytree(TOOLS, root / TOOLS.relative_to(ROOT))
    for dockerfile in dockerfiles(ROOT).values():
        copy = root / dockerfile.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dockerfile, copy)
    shutil.copy(ROOT / "versions.yaml", root)
    return root


def run(
    tree: Path, module: str, program: str, *arguments: str, script: str = BUILDER, **variables: str
) -> "tuple[subprocess.CompletedProcess[str], list[str]]":
    """Run a program with one fake tool on its PATH; return its result and every call of the fake."""
    programs, calls = tree.parent / "bin", tree.parent / "calls"
    shutil.rmtree(programs, ignore_errors=True)
    calls.unlink(missing_ok=True)
    programs.mkdir()
    if program:
        (programs / program).write_text(script)
        (programs / program).chmod(0o755)
    for needed in ("sh", "basename", "git"):
        (programs / needed).symlink_to(shutil.which(needed) or "")
    done = subprocess.run(
        [sys.executable, "-m", f"platform_tools.images.{module}", *arguments],
        env={"PATH": str(programs), "PYTHONPATH": str(tree / TOOLS.parent.relative_to(ROOT)),
             "CALLS": str(calls), "REFUSE": "",
             "DIGEST": DIGEST, **variables},
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    return done, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("builder", ["docker", "podman", "buildah"])
def test_images_are_built_from_pinned_bases_labelled_pushed_and_their_digests_kept(
    tree: Path, builder: str
) -> None:
    done, calls = run(tree, "build", builder, REGISTRY="registry.example/llm", TAG="1.2.3", GPU="1")
    assert done.returncode == 0, done.stderr
    builds = [call for call in calls if call.startswith(f"{builder} build ")]
    assert len(builds) == len(dockerfiles(ROOT))
    versions = yaml.safe_load((tree / "versions.yaml").read_text())
    python = versions["images"]["python"]
    (router,) = (call for call in builds if "/router-service:" in call)
    assert f"--build-arg PYTHON={python['source']}:{python['version']}" in router
    assert "-t registry.example/llm/router-service:1.2.3" in router
    assert "--label org.opencontainers.image.version=1.2.3" in router
    assert "--label org.opencontainers.image.revision=" in router
    built = versions["built_images"]
    assert {entry["digest"] for entry in built.values()} == {DIGEST}
    assert built["rate-limit-service"]["source"] == "registry.example/llm/rate-limit-service"
    assert (tree / "versions.yaml").read_text().startswith((ROOT / "versions.yaml").read_text().rstrip("\n"))


def test_a_mirror_of_torch_is_handed_to_the_image_that_needs_it_alone(tree: Path) -> None:
    _, calls = run(tree, "build", "docker", TORCH_INDEX_URL="https://mirror.example/cpu")
    told = [call for call in calls if "--build-arg TORCH_INDEX_URL=https://mirror.example/cpu" in call]
    assert [call.split("-t ")[1].split()[0] for call in told] == ["llm-platform/inference-engine-cpu:dev"]


def test_a_second_push_replaces_the_digests_and_nothing_else(tree: Path) -> None:
    run(tree, "build", "podman", REGISTRY="registry.example/llm", TAG="1")
    first = (tree / "versions.yaml").read_text()
    other = "sha256:" + "f" * 64
    run(tree, "build", "podman", REGISTRY="registry.example/llm", TAG="1", DIGEST=other)
    assert (tree / "versions.yaml").read_text() == first.replace(DIGEST, other)


def test_without_a_registry_nothing_is_pushed_and_that_is_said(tree: Path) -> None:
    done, calls = run(tree, "build", "docker")
    assert done.returncode == 0
    assert not [call for call in calls if " push " in call]
    assert "nothing was pushed" in done.stdout
    assert (tree / "versions.yaml").read_text() == (ROOT / "versions.yaml").read_text()


@pytest.mark.parametrize(
    ("refuse", "says"), [("build", "could not be built"), ("push", "is `docker login` done?")]
)
def test_a_builder_that_fails_ends_it_with_one_sentence(tree: Path, refuse: str, says: str) -> None:
    done, _ = run(tree, "build", "docker", REGISTRY="registry.example/llm", REFUSE=refuse)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_client_without_an_engine_does_not_count(tree: Path) -> None:
    done, calls = run(tree, "build", "docker", REFUSE="info")
    assert done.returncode == 1
    assert "docker has no running engine (`docker info` fails), podman is not installed" in done.stderr
    assert not [call for call in calls if " build " in call]


def test_buildah_builds_where_docker_is_only_a_client(tree: Path) -> None:
    docker = tree.parent / "docker-only"
    docker.mkdir()
    (docker / "docker").write_text("#!/bin/sh\nexit 1\n")
    (docker / "docker").chmod(0o755)
    done, calls = run(tree, "build", "buildah", PATH=f"{docker}:{tree.parent / 'bin'}")
    assert done.returncode == 0, done.stderr
    assert {call.split()[0] for call in calls} == {"buildah"}


def test_a_named_builder_is_used_and_an_unknown_one_is_refused(tree: Path) -> None:
    podman = tree.parent / "podman-too"
    podman.mkdir()
    (podman / "podman").write_text("#!/bin/sh\n")
    (podman / "podman").chmod(0o755)
    path = f"{podman}:{tree.parent / 'bin'}"
    done, calls = run(tree, "build", "buildah", PATH=path, BUILDER="buildah")
    assert done.returncode == 0, done.stderr
    builds = [call for call in calls if call.startswith("buildah build ")]
    assert builds
    assert all(" --layers " in call for call in builds), "a second build would be a new image"
    done, _ = run(tree, "build", "buildah", BUILDER="kaniko")
    assert done.returncode == 1
    assert 'BUILDER: "kaniko" is not one of docker, podman, buildah' in done.stderr


@pytest.mark.parametrize("builder", ["podman", "buildah"])
def test_a_registry_on_this_machine_may_speak_plain_http(tree: Path, builder: str) -> None:
    for registry, plain in (
        ("localhost:5001/llm", True),
        ("127.0.0.1:5001", True),
        ("localhost.example/llm", False),
    ):
        done, calls = run(tree, "build", builder, REGISTRY=registry, IMAGES="router-service")
        assert done.returncode == 0, done.stderr
        (push,) = (call for call in calls if call.startswith(f"{builder} push "))
        assert ("--tls-verify=false" in push) == plain


def test_the_gpu_image_is_built_only_when_asked_for(tree: Path) -> None:
    done, calls = run(tree, "build", "docker")
    assert not [call for call in calls if "/inference-engine:" in call]
    assert "inference-engine is left out" in done.stdout
    _, calls = run(tree, "build", "docker", GPU="1")
    assert [call for call in calls if "/inference-engine:" in call]
    _, calls = run(tree, "build", "docker", IMAGES="inference-engine router-service")
    assert len([call for call in calls if call.startswith("docker build ")]) == 2
    unknown, _ = run(tree, "build", "docker", IMAGES="ruoter")
    assert unknown.returncode == 1
    assert "there is no image ruoter (known: " in unknown.stderr


def test_what_is_pushed_is_for_the_clusters_platform_whatever_machine_builds_it(tree: Path) -> None:
    _, calls = run(tree, "build", "docker", REGISTRY="registry.example/llm")
    assert all("--platform linux/amd64" in call for call in calls if call.startswith("docker build "))
    _, calls = run(tree, "build", "docker", PLATFORM="linux/arm64")
    assert all("--platform linux/arm64" in call for call in calls if call.startswith("docker build "))


@pytest.mark.parametrize(("machine", "own"), [("x86_64", "linux/amd64"), ("arm64", "linux/arm64")])
def test_an_arm_laptop_pushes_for_the_clusters_platform(
    machine: str, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert platform_of({"REGISTRY": "registry.example/llm"}) == "linux/amd64"
    assert platform_of({}) == own


def test_a_second_push_to_immutable_tags_is_harmless(tree: Path) -> None:
    run(tree, "build", "docker", REGISTRY="registry.example/llm", TAG="1")
    first = (tree / "versions.yaml").read_text()
    says = "tag invalid: The image tag '1' already exists and cannot be overwritten because the tag is immutable."
    done, _ = run(tree, "build", "docker", REGISTRY="registry.example/llm", TAG="1", REFUSE="push", SAYS=says)
    assert done.returncode == 0, done.stderr
    assert "is in the registry already, and its tag is immutable" in done.stdout
    assert (tree / "versions.yaml").read_text() == first


def test_without_a_builder_nothing_is_built_and_the_remedy_is_named(tree: Path) -> None:
    done, _ = run(tree, "build", "")
    assert done.returncode == 1
    assert "install one of them" in done.stderr


def test_a_base_that_no_version_pins_is_refused(tree: Path) -> None:
    dockerfile = tree / "services" / "router-service" / "Dockerfile"
    dockerfile.write_text(
        "ARG SURPRISE=docker.io/library/surprise:latest\nFROM ${SURPRISE}\n" + dockerfile.read_text()
    )
    done, _ = run(tree, "build", "docker")
    assert done.returncode == 1
    assert "ARG SURPRISE is not one of the images in versions.yaml" in done.stderr


SKOPEO = """#!/bin/sh
echo "skopeo $*" >> "$CALLS"
for last; do :; done
case "$last" in *vllm*) echo "time out" >&2; exit 1;; esac
echo "$DIGEST"
"""


def test_pinning_fills_in_what_a_registry_said_and_names_what_it_did_not_say(tree: Path) -> None:
    done, calls = run(tree, "pin", "skopeo", "python", "vllm", script=SKOPEO)
    assert done.returncode == 1
    assert "nothing is known of vllm" in done.stderr
    assert "`make generate` writes these digests into the charts" in done.stdout
    images = yaml.safe_load((tree / "versions.yaml").read_text())["images"]
    assert (images["python"]["digest"], images["python"]["verified"]) == (DIGEST, True)
    assert (images["vllm"]["digest"], images["vllm"]["verified"]) == ("", False)
    assert calls[0].endswith(f"docker://{images['python']['source']}:{images['python']['version']}")
    before = (ROOT / "versions.yaml").read_text().splitlines()
    changed = [line for line in (tree / "versions.yaml").read_text().splitlines() if line not in before]
    assert len(changed) == 1


def test_an_answer_that_is_no_digest_is_not_written(tree: Path) -> None:
    done, _ = run(tree, "pin", "skopeo", "python", script=SKOPEO, DIGEST="sha256:short")
    assert done.returncode == 1
    assert '"sha256:short" is not a digest' in done.stderr
    assert "Traceback" not in done.stderr
    assert (tree / "versions.yaml").read_text() == (ROOT / "versions.yaml").read_text()


def test_an_unknown_image_is_named(tree: Path) -> None:
    done, _ = run(tree, "pin", "skopeo", "nginx", script=SKOPEO)
    assert done.returncode == 2
    assert "no image nginx (known: python, " in done.stderr


def test_the_scripts_that_versions_yaml_and_make_name_are_there() -> None:
    for name in ("build-images", "pin-images"):
        assert os.access(ROOT / "scripts" / name, os.X_OK)
