"""Each image's command works in its built files, with an unprivileged user and a read-only root."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from platform_tools.images.build import dockerfiles
from podrunner import images, kernel
from podrunner.image_commands import CPU_ENGINE, assert_its_commands_run
from podrunner.images import ROOT, Image, build, instructions
from podrunner.platform_images import simulator_base

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.timeout(900)]


def test_a_base_may_be_made_by_many_builds_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BUILT", tmp_path)
    together = threading.Barrier(8)

    def make(number: int) -> Image:
        together.wait(30)
        return images.base(Path("/nowhere", str(number // 8), "python"))

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(200)))
    assert len({image.mounts for image in made}) == 200 // 8


def name_of(dockerfile: Path) -> str:
    return dockerfile.name.removeprefix("Dockerfile").lstrip(".") or dockerfile.parent.name


DOCKERFILES = [
    pytest.param(one, marks=pytest.mark.full if name_of(one) == CPU_ENGINE else (), id=name_of(one))
    for one in dockerfiles(ROOT).values()
]


@pytest.mark.usefixtures("built_images")
@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_the_command_of_an_image_runs_as_nobody_on_a_read_only_root(dockerfile: Path, tmp_path: Path) -> None:
    kernel.require()
    name = name_of(dockerfile)
    # Only pip's configuration can provide the CPU build of torch here.
    image = build(dockerfile, {"docker.io/vllm/": simulator_base()}, {"TORCH_INDEX_URL": ""})
    assert_its_commands_run(image, name, tmp_path)


def test_an_instruction_that_is_not_carried_out_is_refused() -> None:
    with pytest.raises(AssertionError, match="ADD: not known here"):
        instructions("FROM a\nADD b c\n")


def test_a_missing_package_fails_the_build_and_is_named(tmp_path: Path) -> None:
    kernel.require()
    (tmp_path / "Dockerfile.broken").write_text('FROM x\nRUN /opt/no/such/pip install y\nCMD ["a"]\n')
    with pytest.raises(AssertionError, match=r"RUN /opt/no/such/pip.*\n.*not found"):
        build(tmp_path / "Dockerfile.broken")


def repositories(node: object) -> set[str]:
    """Return each `repository` in a values file, whatever its depth. Comments are not values."""
    if isinstance(node, list):
        return {found for item in node for found in repositories(item)}
    if not isinstance(node, dict):
        return set()
    own = {node["repository"]} if isinstance(node.get("repository"), str) else set()
    return own | {found for item in node.values() for found in repositories(item)}


def test_every_image_that_a_chart_names_has_a_dockerfile() -> None:
    files = [*ROOT.glob("helm/*/values.yaml"), *ROOT.glob("helm/environments/*/*.yaml")]
    named = {name for file in files for name in repositories(yaml.safe_load(file.read_text()))}
    named = {name.removeprefix("llm-platform/") for name in named if name.startswith("llm-platform/")}
    without = named - set(dockerfiles(ROOT))
    assert without <= {"models"}, sorted(without)
    assert CPU_ENGINE in named
