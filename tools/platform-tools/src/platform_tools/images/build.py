"""`make images`: builds, labels and pushes every container image of the repository with the installed
builder.

REGISTRY=registry.example/llm-platform   where to push; without it nothing is pushed    TAG=0.1.0
BUILDER=buildah                          docker, podman or buildah; without it the first of them that works
TORCH_INDEX_URL=https://mirror.example   index of CPU builds of torch, for the CPU engine (docs/adr/0006)
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from platform_tools.checkout import ROOT
from platform_tools.images.versions import DIGEST, Image, images, put_built

GPU_IMAGE = "inference-engine"
BUILDERS = ("docker", "podman", "buildah")
LOCAL_NAME = "llm-platform"
_BASE = re.compile(r"^FROM \$\{([A-Z_]+)\}", re.MULTILINE)
# Build arguments passed on from the environment: sources of files that no lock file pins.
HANDED_ON = ("TORCH_INDEX_URL",)


class CannotBuild(Exception):
    """The message says what failed and what to do."""


def dockerfiles(root: Path) -> dict[str, Path]:
    """Return each image's Dockerfile: named by its suffix, or by its service."""
    found = sorted([*root.glob("services/*/Dockerfile*"), *root.glob("load-testing/Dockerfile*")])
    return {path.name.removeprefix("Dockerfile").lstrip(".") or path.parent.name: path for path in found}


def base_arguments(dockerfile: Path, bases: dict[str, Image]) -> list[str]:
    """Return the build arguments that pin the base images, from `versions.yaml`.

    Raises:
        CannotBuild: the Dockerfile names a base image that `versions.yaml` lacks.
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
    """Return the commit, marked if the tree differs from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def pushed_digest(builder: str, reference: str) -> str | None:
    """Push an image and return its digest in the registry; None if its tag exists and is immutable.

    Raises:
        CannotBuild: the push failed, or its digest cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digest"
        push = [builder, "push", reference]
        if builder != "docker":
            push[2:2] = ["--digestfile", str(file), *plain_http(reference)]
        done = subprocess.run(push, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode and "immutable" in done.stderr.lower():
            return None
        print(done.stderr, end="", file=sys.stderr, flush=True)
        if done.returncode:
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
        raise CannotBuild(f"{reference} was pushed, but {builder} does not report the digest")
    return found.group(1)


def plain_http(reference: str) -> list[str]:
    """Return the option for a registry on this machine, such as kind's, which docker assumes without TLS by itself."""
    host = reference.partition("/")[0].rpartition(":")[0]
    return ["--tls-verify=false"] if host in ("localhost", "127.0.0.1", "[::1]") else []


def usable_builder(environment: Mapping[str, str]) -> str:
    """Return BUILDER or the first working builder; docker and podman are clients and need their engine.

    Raises:
        CannotBuild: there is none; the message gives the reason for each.
    """
    reasons = []
    named = environment.get("BUILDER", "")
    if named and named not in BUILDERS:
        raise CannotBuild(f'BUILDER: "{named}" is not one of {", ".join(BUILDERS)}')
    for name in [named] if named else BUILDERS:
        if shutil.which(name) is None:
            reasons.append(f"{name} is not installed")
        elif (
            name != "buildah" and subprocess.run([name, "info"], capture_output=True, check=False).returncode
        ):
            reasons.append(f"{name} has no running engine (`{name} info` fails)")
        else:
            return name
    raise CannotBuild(f"nothing was built: {', '.join(reasons)}; install one of them")


def chosen(found: dict[str, Path], environment: Mapping[str, str]) -> dict[str, Path]:
    """Return the images to build: those that IMAGES names, else all, the GPU engine only with GPU=1.

    Raises:
        CannotBuild: IMAGES names an unknown image.
    """
    named = environment.get("IMAGES", "").split()
    if unknown := [name for name in named if name not in found]:
        raise CannotBuild(f"IMAGES: there is no image {', '.join(unknown)} (known: {', '.join(found)})")
    if named:
        return {name: found[name] for name in named}
    return {name: path for name, path in found.items() if name != GPU_IMAGE or environment.get("GPU") == "1"}


def platform_of(environment: Mapping[str, str]) -> str:
    """Return the platform to build for: PLATFORM, else the cluster's for a registry, else this machine's."""
    machine = {"aarch64": "linux/arm64", "arm64": "linux/arm64"}.get(platform.machine(), "linux/amd64")
    return environment.get("PLATFORM") or ("linux/amd64" if environment.get("REGISTRY") else machine)


def main(arguments: list[str]) -> int:
    """Build, and push if REGISTRY is set; return 0 if every image exists, including those pushed earlier."""
    versions, built = ROOT / "versions.yaml", {}
    registry, tag = os.environ.get("REGISTRY", ""), os.environ.get("TAG") or "dev"
    try:
        found = dockerfiles(ROOT)
        wanted, builder = chosen(found, os.environ), usable_builder(os.environ)
        bases, commit = images(versions), revision(ROOT)
        print(f"  {builder}, {platform_of(os.environ)}, {len(wanted)} of {len(found)} images", flush=True)
        if GPU_IMAGE not in wanted and not os.environ.get("IMAGES"):
            print(f"  {GPU_IMAGE} is left out: GPU=1 make images builds it")
        for name, dockerfile in wanted.items():
            repository = f"{registry or LOCAL_NAME}/{name}"
            reference = f"{repository}:{tag}"
            print(f"  {reference} from {dockerfile.relative_to(ROOT)}", flush=True)
            command = [builder, "build", "--platform", platform_of(os.environ)]
            if (
                builder == "buildah"
            ):  # the others keep layers by default; without them a second build is a new image
                command.append("--layers")
            command += ["-f", str(dockerfile), "-t", reference, *base_arguments(dockerfile, bases)]
            for label, value in (("version", tag), ("revision", commit)):
                command += ["--label", f"org.opencontainers.image.{label}={value}"]
            if subprocess.run([*command, str(ROOT)], check=False).returncode:
                raise CannotBuild(f"{reference} could not be built (see above)")
            if registry and (digest := pushed_digest(builder, reference)):
                built[name] = Image(repository, tag, digest)
            elif registry:
                print(
                    f"  {reference} is in the registry already, and its tag is immutable: give changed code a new TAG"
                )
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
    sys.exit(main(sys.argv[1:]))
