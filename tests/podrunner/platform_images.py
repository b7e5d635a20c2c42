"""The image for each name that our charts use, and the names that cannot run here."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

from podrunner.images import ROOT, Image, Mount, base, build, machine_python

# No package registry has these binaries; their manifests are checked, their pods not run.
NOT_RUNNABLE = {
    "docker.io/grafana/grafana": "Grafana is in no package registry",
    "docker.io/grafana/loki": "Loki is in no package registry",
    "docker.io/grafana/tempo": "Tempo is in no package registry",
    "docker.io/grafana/alloy": "Alloy is in no package registry",
    "nvcr.io/nvidia/k8s/dcgm-exporter": "needs a GPU",
}


class NoImage(AssertionError):
    """A manifest names an image that cannot run here."""


def repository_of(image: str) -> str:
    """Return an image's name without its digest and tag."""
    host, slash, rest = image.partition("@")[0].rpartition("/")
    return host + slash + rest.partition(":")[0]


def simulator_base() -> Image:
    """Return a vLLM image whose vLLM is the engine simulator."""
    found = base(ROOT / ".venv" / "bin" / "python", PYTHONPATH=str(ROOT / "tests/podrunner/simulated_vllm"))
    return _with(
        found,
        ROOT / ".venv",
        ROOT / "services/engine-simulator",
        ROOT / "libraries",
        ROOT / "tests/podrunner",
    )


def _with(image: Image, *folders: Path) -> Image:
    mounts = [*image.mounts, *(Mount(str(one), str(one)) for one in folders)]
    return Image(image.name, tuple(mounts), image.links, env=image.env)


def images_of(engine: Callable[[], Image] = simulator_base) -> Callable[[str], Image]:
    """Return the image for a name in a manifest; ``engine`` builds the replacement of vLLM's image."""

    @functools.cache
    def find(name: str) -> Image:
        repository = repository_of(name)
        own = repository.rpartition("/")[2] if "llm-platform/" in repository else ""
        if own.startswith("inference-engine"):
            dockerfile = ROOT / "services/inference-backend/Dockerfile.inference-engine"
            return build(dockerfile, {"docker.io/vllm/": engine()})
        if own:
            return build(ROOT / "services" / own / "Dockerfile")
        programs = {
            "docker.io/library/redis": ("redis-server", "/usr/local/bin/redis-server"),
            "docker.io/oliver006/redis_exporter": ("prometheus-redis-exporter", "/redis_exporter"),
            "docker.io/library/busybox": ("sh", "/bin/sh"),  # and Debian's wget
            "docker.io/prom/prometheus": ("prometheus", "/bin/prometheus"),
            "docker.io/prom/alertmanager": ("prometheus-alertmanager", "/bin/alertmanager"),
        }
        if repository not in programs:
            raise NoImage(f"{name}: {NOT_RUNNABLE.get(repository, 'unknown')}")
        program, place = programs[repository]
        binary = shutil.which(program)
        if binary is None:
            raise NoImage(
                f"{name}: {program} is not installed: python3 scripts/install-dependencies packages:up"
            )
        plain = base(machine_python())
        inside_usr = place.startswith(("/usr/", "/bin/"))
        mounts = plain.mounts if inside_usr else (*plain.mounts, Mount(binary, place))
        return Image(repository, mounts, plain.links, (program if inside_usr else place,), env=plain.env)

    return find
