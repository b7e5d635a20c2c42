"""`scripts/bundle`: everything that an installation without internet access needs, in one folder.

scripts/bundle create FOLDER --environment prod --registry registry.example/llm-platform   needs helm, skopeo, a network
scripts/bundle push FOLDER --registry registry.inside:5000                                 needs helm and skopeo

images/ is an OCI layout with every image of the environment's pods, charts/ holds the packaged charts, wheels/ the Python
packages of the command-line tools, models.json what each model file says of its weights, SHA256SUMS all checksums.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from platform_tools.checkout import ROOT
from platform_tools.deploy.releases import BadRequest, releases_of

HELM = ROOT / "helm"
OURS = "llm-platform/"
SUMS = "SHA256SUMS"


class CannotBundle(Exception):
    """The message says what failed and what to do."""


def run(*words: object, text: str | None = None) -> str:
    """Run a program and return what it printed.

    Raises:
        CannotBundle: it is not installed or failed; the message has its last line.
    """
    command = [str(word) for word in words]
    if shutil.which(command[0]) is None:
        raise CannotBundle(f"{command[0]} is not installed; install it and run this again")
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBundle(f"{' '.join(command[:4])}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def images_of(environment: str, values: Sequence[str] = ()) -> list[str]:
    """Return the images of the environment's pods as the charts name them, ours without a registry.

    ``values`` are those of `scripts/deploy -f`: FILE or RELEASE=FILE, without registries.
    """
    handed_over = {"global": {"region": "none", "buckets": {"models": "m", "logs": "l", "traces": "t"}}}
    found: set[str] = set()
    for release in releases_of(HELM, environment, values):
        words = ["helm", "template", *release.words(), "-f", "-"]
        for document in yaml.safe_load_all(run(*words, text=yaml.safe_dump(handed_over))):
            found.update(_images(document))
    return sorted(found)


def _images(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _images(one)
    elif isinstance(value, dict):
        for key, below in value.items():
            if key == "image" and isinstance(below, str):
                yield below
            else:
                yield from _images(below)


def inside(image: str) -> str:
    """Return an image's path in an internal registry: without the host, as `global.imageRegistry` expects."""
    return re.sub(r"^[^/]*[.:][^/]*/", "", image)


def in_layout(name: str) -> str:
    """Return an image's name in the OCI layout, where a name with a digest is not possible."""
    return name.replace("@sha256:", ":sha256-")


def unchanged(name: str) -> list[str]:
    """Return the options that keep an image's digest, which its name has: all platforms, no conversion."""
    return ["--all", "--preserve-digests"] if "@" in name else []


def create(options: argparse.Namespace) -> None:
    """Write the folder. ``mirror`` replaces the hosts of images that are not ours."""
    folder, registry, mirror = options.folder, options.registry, options.mirror
    if folder.exists() and any(folder.iterdir()):
        raise CannotBundle(f"{folder} is not empty; name a new folder")
    (folder / "charts").mkdir(parents=True)
    for chart in sorted(HELM.glob("*/Chart.yaml")):
        run("helm", "package", "--dependency-update", chart.parent, "--destination", folder / "charts")
    names = []
    for image in images_of(options.environment, options.values):
        source = f"{registry}/{image.removeprefix(OURS)}" if image.startswith(OURS) else image
        if mirror and not image.startswith(OURS):
            source = f"{mirror}/{inside(image)}"
        print(f"  {image}", flush=True)
        target = f"oci:{folder / 'images'}:{in_layout(inside(image))}"
        run("skopeo", "copy", *unchanged(image), *_tls(source), f"docker://{source}", target)
        names.append(inside(image))
    (folder / "images.txt").write_text("".join(f"{name}\n" for name in names))
    if not options.no_wheels:
        lock = ROOT / "requirements/platform.lock"
        run(sys.executable, "-m", "pip", "download", "--quiet", "-r", lock, "-d", folder / "wheels")
    (folder / "models.json").write_text(json.dumps(_models(), indent=1) + "\n")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = [f"{_sum(path)}  {path.relative_to(folder)}\n" for path in files]
    (folder / SUMS).write_text("".join(sums))
    print(f"  {len(names)} images, {len(files)} files in {folder}")


def _models() -> dict[str, Any]:
    """Return the source of each model's weights; files of .run/models with their checksums."""
    found = {}
    for path in sorted((ROOT / "services/inference-backend/models").glob("*.yaml")):
        facts = yaml.safe_load(path.read_text())
        local = ROOT / ".run/models" / facts["name"]
        found[facts["name"]] = {
            **{key: facts[key] for key in ("source", "repository", "revision", "licence") if key in facts},
            "files": {one.name: _sum(one) for one in sorted(local.glob("*")) if one.is_file()},
        }
    return found


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(folder: Path) -> None:
    """Compare every file with its checksum.

    Raises:
        CannotBundle: the folder is not a bundle, or a file is missing or differs.
    """
    if not (folder / SUMS).is_file():
        raise CannotBundle(f"{folder} has no {SUMS}: it is not a bundle, or was not copied completely")
    for line in (folder / SUMS).read_text().splitlines():
        wanted, name = line.split("  ", 1)
        if not (folder / name).is_file() or _sum(folder / name) != wanted:
            raise CannotBundle(f"{folder / name} is missing or damaged; copy the bundle again")


def push(folder: Path, registry: str) -> None:
    """Check the folder, and push its images and charts to a registry."""
    check(folder)
    for name in (folder / "images.txt").read_text().split():
        run(
            "skopeo",
            "copy",
            *unchanged(name),
            *_tls(registry, "--dest"),
            f"oci:{folder / 'images'}:{in_layout(name)}",
            f"docker://{registry}/{name}",
        )
    plain = ["--plain-http"] if _tls(registry) else []
    for chart in sorted((folder / "charts").glob("*.tgz")):
        run("helm", "push", chart, f"oci://{registry}/charts", *plain)
    print(
        f"  pushed; install with global.registry: {registry}/{OURS.rstrip('/')} and global.imageRegistry: {registry}"
    )


def _tls(address: str, side: str = "--src") -> list[str]:
    """Return the option that allows plain HTTP; only for a registry on this machine."""
    return [f"{side}-tls-verify=false"] if address.startswith(("127.0.0.1:", "localhost:")) else []


def main(arguments: list[str]) -> int:
    """Run `create` or `push`; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="scripts/bundle", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("action", choices=["create", "push"])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--registry", required=True, help="registry of our images: source (create) or target (push)"
    )
    parser.add_argument("--environment", default="prod", help="a folder of helm/environments")
    parser.add_argument(
        "-f", dest="values", action="append", default=[], metavar="[RELEASE=]FILE",
        help="values that choose images, as for scripts/deploy; without registries (create)",
    )  # fmt: skip
    parser.add_argument(
        "--mirror", default="", help="registry that mirrors other projects' images, by their path"
    )
    parser.add_argument("--no-wheels", action="store_true", help="omit the Python packages")
    options = parser.parse_args(arguments)
    try:
        if options.action == "push":
            push(options.folder, options.registry)
        else:
            create(options)
    except (CannotBundle, BadRequest) as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
