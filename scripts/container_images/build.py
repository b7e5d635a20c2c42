"""`make images`: builds, labels and pushes every container image of the repository with the builder that is there.

REGISTRY=registry.example/llm-platform   where to push; without it nothing is pushed    TAG=0.1.0
TORCH_INDEX_URL=https://mirror.example   where a CPU build of torch is, for the CPU engine
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from container_images.versions import DIGEST, Image, images, put_built

ROOT = Path(__file__).resolve().parents[2]
BUILDERS = ("docker", "podman", "buildah")
LOCAL_NAME = "llm-platform"
_BASE = re.compile(r"^FROM \$\{([A-Z_]+)\}", re.MULTILINE)
# Arguments that are handed on when the environment has them: where what is not in a lock file comes from.
HANDED_ON = ("TORCH_INDEX_URL",)


class CannotBuild(Exception):
    """The message says what failed and what to do."""


def dockerfiles(root: Path) -> dict[str, Path]:
    """Return each image's Dockerfile: named by its suffix, or by its service."""
    found = sorted([*root.glob("services/*/Dockerfile*"), *root.glob("load-testing/Dockerfile*")])
    return {path.name.removeprefix("Dockerfile").lstrip(".") or path.parent.name: path for path in found}


def base_arguments(dockerfile: Path, bases: dict[str, Image]) -> list[str]:
    """Return the build arguments that pin what the image is built from, as `versions.yaml` has it.

    Raises:
        CannotBuild: the Dockerfile names a base that the file does not have.
    """
    arguments: list[str] = []
    text = dockerfile.read_text()
    for name in dict.fromkeys(_BASE.findall(text)):
        if name.lower() not in bases:
            raise CannotBuild(
                f"{dockerfile}: ARG {name} is not one of the images in versions.yaml; add it there"
            )
        arguments += ["--build-arg", f"{name}={bases[name.lower()].reference}"]
    for name in HANDED_ON:
        if f"ARG {name}=" in text and os.environ.get(name):
            arguments += ["--build-arg", f"{name}={os.environ[name]}"]
    return arguments


def revision(root: Path) -> str:
    """Return the commit, marked when the tree differs from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def pushed_digest(builder: str, reference: str) -> str:
    """Push an image and return the digest that the registry now has it by.

    Raises:
        CannotBuild: the push failed, or its digest cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digest"
        push = [builder, "push", reference]
        if builder != "docker":
            push[2:2] = ["--digestfile", str(file)]
        if subprocess.run(push, check=False).returncode:
            raise CannotBuild(
                f"{reference} was built but could not be pushed (see above); is `{builder} login` done?"
            )
        if builder == "docker":
            inspect = ["docker", "inspect", "--format", "{{json .RepoDigests}}", reference]
            text = subprocess.run(inspect, capture_output=True, text=True, check=False).stdout
            prefix = re.escape(reference.rpartition(":")[0] + "@")
        else:
            text, prefix = file.read_text() if file.exists() else "", ""
    found = re.search(f"{prefix}({DIGEST.pattern})", text)
    if found is None:
        raise CannotBuild(f"{reference} was pushed, but {builder} does not say under which digest")
    return found.group(1)


def main() -> int:
    builder = next((name for name in BUILDERS if shutil.which(name)), None)
    wanted = dockerfiles(ROOT)
    if builder is None:
        print(
            f"make images: none of {', '.join(BUILDERS)} is installed, so nothing was built "
            f"({len(wanted)} Dockerfiles are there); install one of them",
            file=sys.stderr,
        )
        return 1
    registry, tag = os.environ.get("REGISTRY", ""), os.environ.get("TAG") or "dev"
    versions = ROOT / "versions.yaml"
    bases, commit, built = images(versions), revision(ROOT), {}
    try:
        for name, dockerfile in wanted.items():
            repository = f"{registry or LOCAL_NAME}/{name}"
            reference = f"{repository}:{tag}"
            print(f"  {reference} from {dockerfile.relative_to(ROOT)}", flush=True)
            command = [builder, "build", "-f", str(dockerfile), "-t", reference]
            command += base_arguments(dockerfile, bases)
            for label, value in (("version", tag), ("revision", commit)):
                command += ["--label", f"org.opencontainers.image.{label}={value}"]
            if subprocess.run([*command, str(ROOT)], check=False).returncode:
                raise CannotBuild(f"{reference} could not be built (see above)")
            if registry:
                built[name] = Image(repository, tag, pushed_digest(builder, reference))
    except CannotBuild as error:
        print(f"make images: {error}", file=sys.stderr)
        return 1
    finally:
        if built:
            put_built(versions, built)
    if registry:
        print(f"  digests of {len(built)} images are in versions.yaml, built_images")
    else:
        print("  nothing was pushed: REGISTRY=registry.example/llm-platform make images pushes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
