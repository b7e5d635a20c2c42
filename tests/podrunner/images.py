"""Images without a container engine: executes the instructions of our Dockerfiles on this machine.

The base image is the machine's Debian and Python. RUN and COPY write to a folder; a container sees only that
folder and the base. This tests lock files, paths, entry points and users of a Dockerfile, but not base
images, layers or registries.
"""

import fcntl
import fnmatch
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from podrunner import enter
from podrunner.kernel import spawn

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / ".run" / "images"
HOST_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
HOST_ETC = ("ssl", "ld.so.cache", "alternatives", "localtime", "redis", "protocols", "services")
PYTHON = Path(sys.base_prefix)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "LABEL", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
TRIES = 3


class CannotBuild(AssertionError):
    """A Dockerfile's instruction failed. The message contains it and the end of its output."""


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine, mounted into a container."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Image:
    """A built image: its files, command and user."""

    name: str
    mounts: tuple[Mount, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: tuple[int, int] = (0, 0)
    cwd: str = "/"
    labels: Mapping[str, str] = field(default_factory=dict)


def instructions(text: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, continued lines joined.

    Raises:
        CannotBuild: an instruction that this builder does not know.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n", " ", "\n".join(lines))
    found = []
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word.upper() not in KNOWN:
            raise CannotBuild(f"{word}: not known here (known: {', '.join(sorted(KNOWN))})")
        found.append((word.upper(), rest.strip()))
    return found


def base(python: Path, links: Iterable[tuple[str, str]] = (), **env: str) -> Image:
    """Return the base that replaces an image with ``python`` as its python3."""
    folder = BUILT / "base" / hashlib.sha256(str(python).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("python", "python3", "python3.11"):
        wrapper = folder / name
        if not wrapper.exists():
            _write_whole(wrapper, f'#!/bin/sh\nexec {shlex.quote(str(python))} "$@"\n', 0o755)
    mounts = [Mount("/usr", "/usr"), Mount(str(folder), "/usr/local/bin")]
    given_links = list(links)
    for name in HOST_FOLDERS[1:]:
        place = Path("/", name)
        if place.is_symlink():
            given_links.append((f"/{name}", os.readlink(place)))
        elif place.exists():
            mounts.append(Mount(f"/{name}", f"/{name}"))
    mounts += [Mount(f"/etc/{name}", f"/etc/{name}") for name in HOST_ETC if Path("/etc", name).exists()]
    if not PYTHON.is_relative_to("/usr"):
        mounts.append(Mount(str(PYTHON), str(PYTHON)))
    return Image("base", tuple(mounts), tuple(given_links), env={"PATH": PATH, **env})


def machine_python() -> Path:
    """Return the Python that replaces python:3.11-slim here."""
    return Path(PYTHON, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")


def build(
    dockerfile: Path, bases: Mapping[str, Image] | None = None, arguments: Mapping[str, str] | None = None
) -> Image:
    """Build a Dockerfile and return its image, from the cache if no input has changed.

    ``bases`` maps name prefixes in FROM to images; any other name means the machine itself.
    ``arguments`` are build arguments; an empty index means pip's configured index.

    Raises:
        CannotBuild: an instruction failed.
    """
    text = dockerfile.read_text()
    stages = _Stages(dockerfile, text, dict(bases or {}), dict(arguments or {}))
    folder = BUILT / stages.name / stages.fingerprint
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            for old in folder.parent.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            folder.mkdir()
        image = stages.carry_out(folder)
        (folder / "complete").touch()
        for left in folder.iterdir():  # only the last stage is the image
            if left.is_dir() and left.name != "final":
                shutil.rmtree(left)
    return image


class _Stages:
    """The build of one Dockerfile."""

    def __init__(
        self, dockerfile: Path, text: str, bases: dict[str, Image], arguments: dict[str, str]
    ) -> None:
        suffix = dockerfile.name.removeprefix("Dockerfile").lstrip(".")
        self.name = suffix or dockerfile.parent.name
        self._steps = instructions(text)
        self._bases = bases
        self._arguments = arguments
        sources = [
            path
            for word, rest in self._steps
            if word == "COPY" and not rest.startswith("--from")
            for name in rest.split()[:-1]
            for path in context_files(ROOT / name)
        ]
        digest = hashlib.sha256(f"{text}{PYTHON}{sys.version}{ROOT}".encode())
        for path in sources:
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
        self.fingerprint = digest.hexdigest()[:16]

    def carry_out(self, folder: Path) -> Image:
        done = (folder / "complete").exists()
        trees: dict[str, Path] = {}
        image, tree = Image(self.name), folder
        for word, rest in self._steps:
            rest = re.sub(r"\$\{(\w+)\}", lambda found: self._arguments.get(found[1], ""), rest)
            if word == "ARG":
                name, _, default = rest.partition("=")
                self._arguments.setdefault(name, default)
            elif word == "FROM":
                source, _, alias = rest.partition(" AS ")
                tree = folder / (alias or "final")
                trees[alias] = tree
                tree.mkdir(exist_ok=True)
                start = next((b for name, b in self._bases.items() if source.startswith(name)), None)
                image = replace(start or base(machine_python()), name=self.name)
            elif word == "WORKDIR":
                image = replace(image, cwd=rest)
                (tree / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif word == "COPY" and not done:
                self._copy(rest, trees, tree, image.cwd)
            elif word == "RUN" and not done:
                self._run(rest, tree, image, folder)
            elif word == "ENV":
                image = replace(image, env={**image.env, **dict(w.split("=", 1) for w in shlex.split(rest))})
            elif word == "LABEL":
                pairs = dict(w.split("=", 1) for w in shlex.split(rest))
                image = replace(image, labels={**image.labels, **pairs})
            elif word == "USER":
                user, _, group = rest.partition(":")
                image = replace(image, user=(int(user), int(group)))
            elif word == "ENTRYPOINT":
                image = replace(image, entrypoint=tuple(json.loads(rest)))
            elif word == "CMD":
                image = replace(image, command=tuple(json.loads(rest)))
        return replace(image, mounts=(*image.mounts, *_added(folder / "final")))

    def _copy(self, rest: str, trees: Mapping[str, Path], tree: Path, cwd: str) -> None:
        words = rest.split()
        start = ROOT
        if words[0].startswith("--from="):
            start = trees[words.pop(0).removeprefix("--from=")]
        *sources, target = words
        to = tree / os.path.join(cwd, target).lstrip("/")
        for source in sources:
            origin = start / source.lstrip("/")
            if start == ROOT:
                for path in context_files(origin):
                    place = to / path.relative_to(origin) if origin.is_dir() else to
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, place)
            else:
                shutil.copytree(origin, to, symlinks=True, dirs_exist_ok=True)

    def _run(self, command: str, tree: Path, image: Image, folder: Path) -> None:
        log = folder / "build.log"
        if command.startswith("apt-get "):
            _require_packages(command)
            return
        command = command.replace('--index-url ""', "")
        for attempt in range(TRIES):
            if _run_on_machine(command, tree, image, log) == 0:
                return
            time.sleep(2.0 * attempt)  # a package index did not answer
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise CannotBuild(f"{self.name}: RUN {command[:90]}...: failed {TRIES} times:\n{end}")


def _require_packages(command: str) -> None:
    """Check that the machine has the Debian packages; a build installs none.

    Raises:
        CannotBuild: a package is missing.
    """
    found = re.search(r"apt-get install ((?:--\S+ )*)([^&|;]+)", command)
    for package in found[2].split() if found else []:
        asked = subprocess.run(["dpkg-query", "-W", package], capture_output=True, text=True, check=False)
        if asked.returncode:
            raise CannotBuild(f"{package}: not installed: python3 scripts/install-dependencies packages:up")


def _run_on_machine(command: str, tree: Path, image: Image, log: Path) -> int:
    """Run a RUN line as root on an overlay of this machine's files; new files go to ``tree``."""
    mounts = []
    for entry in sorted(Path("/").iterdir()):
        if entry.name in ("proc", "dev", "tmp", "opt", "src") or entry.is_symlink() or not entry.exists():
            continue
        mounts.append({"source": str(entry), "target": str(entry), "read_only": False})
    for entry in sorted(Path("/opt").iterdir()) if Path("/opt").is_dir() else []:
        mounts.append({"source": str(entry), "target": str(entry), "read_only": True})
    with tempfile.TemporaryDirectory(prefix="image-build-") as scratch:
        Path(scratch, "tmp").mkdir()
        Path(scratch, "root").mkdir()
        mounts += [
            {"source": one.source, "target": one.target, "read_only": True}
            for one in image.mounts
            if one.target != "/usr"
        ]
        for name in ("opt", "src"):
            (tree / name).mkdir(exist_ok=True)
        mounts = [{"source": str(tree / "opt"), "target": "/opt", "read_only": False},
                  {"source": str(tree / "src"), "target": "/src", "read_only": False},
                  {"source": f"{scratch}/tmp", "target": "/tmp", "read_only": False}, *mounts]  # fmt: skip
        spec = {
            "root": f"{scratch}/root", "mounts": mounts, "proc": True, "read_only": False, "cwd": image.cwd,
            "links": [{"path": p, "to": t} for p, t in image.links], "etc": {}, "hostname": "",
            "env": {**_registry_settings(), **image.env, "HOME": os.environ.get("HOME", "/root")},
            "argv": ["/bin/sh", "-ec", command], "drop": False, "uid": 0, "gid": 0, "groups": [],
        }  # fmt: skip
        return run_in_root(spec, Path(scratch), log)


def run_in_root(spec: Mapping[str, Any], folder: Path, log: Path) -> int:
    """Run a container's command in the machine's network until it exits; return its exit status."""
    (folder / "spec.json").write_text(json.dumps(spec))
    command = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child",
               str(machine_python()), "-I", str(enter.__file__), str(folder / "spec.json")]  # fmt: skip
    with log.open("ab") as output:
        return spawn(command, stdout=output, stderr=subprocess.STDOUT).wait(600)


def context_files(path: Path) -> list[Path]:
    """Return the files below ``path`` that .dockerignore lets into the build."""
    if path.is_file():
        return [path]
    ignored = [
        line
        for line in (ROOT / ".dockerignore").read_text().split()
        if not line.startswith("!") and line != "*"
    ]
    found = []
    for one in sorted(path.rglob("*")):
        parts = one.relative_to(ROOT).parts
        if one.is_file() and not any(
            fnmatch.fnmatch(part, pattern.removeprefix("**/")) for pattern in ignored for part in parts
        ):
            found.append(one)
    return found


def _registry_settings() -> dict[str, str]:
    """Return the package index of this machine's pip."""
    names = ("PIP_", "SSL_CERT", "REQUESTS_CA", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY",
             "HTTPS_PROXY", "NO_PROXY", "XDG_CONFIG")  # fmt: skip
    return {key: value for key, value in os.environ.items() if key.startswith(names)}


def _added(tree: Path) -> list[Mount]:
    """Return what an image adds to its base, as mounts: the folders below /opt and other new folders."""
    found = []
    for entry in sorted(tree.iterdir()):
        inner = sorted(entry.iterdir()) if entry.name == "opt" else [entry]
        found += [
            Mount(str(one), f"/{one.relative_to(tree)}")
            for one in inner
            if one.is_dir() and any(one.iterdir())
        ]
    return found


def _write_whole(path: Path, text: str, mode: int) -> None:
    # Threads and processes build images in parallel, so each writes under a unique name.
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    part.write_text(text)
    part.chmod(mode)
    part.replace(path)
