"""`make images` with the real buildah and a real registry: built, pushed, pulled by digest and started.

The base image is made from Debian's packages, because no registry that has python:3.11-slim is needed then. The pods
of the environment `sim` run from the pulled images with the charts' users, commands and read-only roots.
"""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.kubernetes.platform_manifests import ROOT, manifests_of, routes
from harness.ports import free_port
from harness.processes import answers, running
from harness.programs import require
from platform_tools.images.build import GPU_IMAGE, dockerfiles
from podrunner import kernel
from podrunner.cluster import cluster
from podrunner.container_storage import PROGRAMS, Storage, storage
from podrunner.image_commands import CPU_ENGINE, assert_its_commands_run
from podrunner.images import Image
from podrunner.platform_images import images_of

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.full, pytest.mark.timeout(1800)]

TAG = "7.8.9"
BUILD_SECONDS = 5400
"""The CPU engine with torch's CUDA libraries takes gigabytes through every stage, also on a busy machine."""
KEY = "sk-" + "b" * 40
SMALL = [name for name in dockerfiles(ROOT) if name not in (GPU_IMAGE, CPU_ENGINE)]
"""The CPU engine has a test of its own, because it takes gigabytes; the GPU engine's base needs a registry."""
# The values of `sim` that choose an image of ours, by release.
CHOOSING = {
    "edge": {"image": "edge-gateway"},
    "rate-limits": {"image": "rate-limit-service"},
    "router": {"image": "router-service"},
    "simulated": {"image": "engine-simulator", "agentImage": "inference-backend"},
}


@dataclass
class Registry:
    """A running registry, a checkout whose `make images` pushes there, and the images that a node has pulled."""

    address: str
    checkout: Path
    builder: Storage
    node: Storage

    def make_images(self, *names: str) -> dict[str, Any]:
        """Run `make images` for some images; return what versions.yaml then says of all built ones."""
        done = subprocess.run(
            ["make", "images"], cwd=self.checkout,
            env={**self.builder.environment, "REGISTRY": f"{self.address}/llm-platform", "TAG": TAG,
                 "IMAGES": " ".join(names), "BUILDER": "buildah"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        versions = yaml.safe_load((self.checkout / "versions.yaml").read_text())
        return dict(versions["built_images"])

    def by_digest(self, facts: dict[str, Any]) -> str:
        return f"{facts['source']}@{facts['digest']}"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    kernel.require()
    for program in PROGRAMS:
        require(program, f"install it: apt-get install --no-install-recommends {program}")
    folder = tmp_path_factory.mktemp("registry")
    folder.chmod(0o755)
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "version": 0.1, "http": {"addr": address}, "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
    }  # fmt: skip
    (folder / "registry.yaml").write_text(yaml.safe_dump(settings))
    served = ["docker-registry", "serve", str(folder / "registry.yaml")]
    with (
        running(served, log=folder / "registry.log", ready=answers(f"http://{address}/v2/")),
        storage(folder / "builder") as builder,
        storage(folder / "node") as node,
    ):
        made = Registry(address, checkout(folder / "checkout"), builder, node)
        python = yaml.safe_load((made.checkout / "versions.yaml").read_text())["images"]["python"]
        builder.make_python_base(f"{python['source']}:{python['version']}")
        yield made


def checkout(folder: Path) -> Path:
    """Return a copy of this checkout's tracked files, because `make images` writes versions.yaml."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    # A digest that a registry reported is not the digest of the base that is made here.
    versions = yaml.safe_load((folder / "versions.yaml").read_text())
    versions["images"]["python"]["digest"] = ""
    versions.pop("built_images", None)
    (folder / "versions.yaml").write_text(yaml.safe_dump(versions, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def pushed(registry: Registry) -> dict[str, Any]:
    return registry.make_images(*SMALL)


def test_the_registry_has_every_image_under_the_digest_of_versions_yaml(
    registry: Registry, pushed: dict[str, Any]
) -> None:
    assert pushed.keys() == set(SMALL)
    for name, facts in pushed.items():
        assert facts["source"] == f"{registry.address}/llm-platform/{name}"
        at = f"docker://{facts['source']}:{facts['version']}"
        asked = ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", at]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
        assert done.stdout.strip() == facts["digest"], done.stderr


def test_a_second_run_with_the_same_tag_changes_nothing(registry: Registry, pushed: dict[str, Any]) -> None:
    assert registry.make_images(*SMALL) == pushed


def test_changed_code_under_the_same_tag_leaves_the_first_digest_pullable(
    registry: Registry, pushed: dict[str, Any]
) -> None:
    """Pods that name the digest keep their image, and a digest of versions.yaml is always the last build."""
    source = registry.checkout / "services/router-service/src/router_service/main.py"
    before = source.read_text()
    source.write_text(before + "\n# changed\n")
    changed = registry.make_images("router-service")
    source.write_text(before)
    assert changed["router-service"]["digest"] != pushed["router-service"]["digest"]
    assert {**changed, "router-service": pushed["router-service"]} == pushed
    for facts in (changed["router-service"], pushed["router-service"]):
        assert registry.node.pulled(registry.by_digest(facts)).user == (65532, 65532)


@pytest.mark.parametrize("name", SMALL)
def test_a_pulled_image_starts(name: str, registry: Registry, pushed: dict[str, Any], tmp_path: Path) -> None:
    image = registry.node.pulled(registry.by_digest(pushed[name]))
    assert image.labels["org.opencontainers.image.version"] == TAG
    assert_its_commands_run(image, name, tmp_path)


def test_the_platform_answers_from_pulled_images(
    registry: Registry, pushed: dict[str, Any], tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    more: dict[str, list[str]] = {}
    for release, chosen in CHOOSING.items():
        sets = [f"{value}.digest={pushed[name]['digest']}" for value, name in chosen.items()]
        sets.append(f"global.registry={registry.address}/llm-platform")
        more[release] = [word for one in sets for word in ("--set", one)]
    documents = [one for one in manifests_of("sim", more) if one["metadata"]["namespace"] == "llm"]
    others = images_of()
    ran: set[str] = set()

    def image_of(reference: str) -> Image:
        if not reference.startswith(registry.address):
            return others(reference)
        if reference not in pulled:
            pulled[reference] = registry.node.pulled(reference)
        ran.add(pulled[reference].name)
        return pulled[reference]

    pulled: dict[str, Image] = {}
    with cluster(tmp_path / "pods", image_of) as kube:
        kube.secret("llm", "redis", password="a long password")
        kube.secret("llm", "edge-routes", **{"routes.yaml": routes(tmp_path, KEY)})
        kube.wait_ready(kube.apply(*documents), 180)
        url = f"http://{kube.address('llm', 'edge-gateway')}/v1/chat/completions"
        body = {"model": "simulated-chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
        headers = {"authorization": f"Bearer {KEY}"}
        client = kube.client("laptop", "default")
        answer = client.call(lambda: httpx.post(url, json=body, headers=headers, timeout=60))
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-route-backend"].startswith("simulated")
        assert kube.events() == []
    assert ran == {name for chosen in CHOOSING.values() for name in chosen.values()}


@pytest.mark.timeout(2 * BUILD_SECONDS)
def test_the_cpu_engine_starts_from_its_pulled_image(registry: Registry, tmp_path: Path) -> None:
    pushed = registry.make_images(CPU_ENGINE)
    assert registry.make_images(CPU_ENGINE) == pushed
    assert_its_commands_run(
        registry.node.pulled(registry.by_digest(pushed[CPU_ENGINE])), CPU_ENGINE, tmp_path
    )


def test_the_images_of_this_test_are_all_but_the_gpu_engine() -> None:
    assert {*SMALL, CPU_ENGINE, GPU_IMAGE} == set(dockerfiles(ROOT))
