"""Images by buildah: a base made from Debian's packages, builds, pulls by digest, and pods' images from mounted files.

Each storage is a folder of its own, so that nothing depends on the machine's images or stays in them.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from podrunner.images import CannotBuild, Image, Mount

PROGRAMS = ("buildah", "debootstrap", "docker-registry", "skopeo")
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
# The runtime provides these folders, and these files of /etc.
OF_THE_RUNTIME = ("dev", "etc", "proc", "run", "sys", "tmp", "var", "root")
OF_THE_POD = ("passwd", "group", "hosts", "hostname", "resolv.conf", "nsswitch.conf", "mtab")
PIP_SETTINGS = ("INDEX_URL", "EXTRA_INDEX_URL", "CERT", "TRUSTED_HOST")


class Storage:
    """buildah with its own images and containers below ``folder``."""

    def __init__(self, folder: Path) -> None:
        (folder / "tmp").mkdir(parents=True)
        settings = folder / "storage.conf"
        settings.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
        )
        self.folder = folder
        # chroot: a build then needs no container runtime. Without layers buildah builds everything anew each time.
        self.environment = {
            **os.environ, "CONTAINERS_STORAGE_CONF": str(settings), "BUILDAH_ISOLATION": "chroot",
            "TMPDIR": str(folder / "tmp"),
        }  # fmt: skip

    def buildah(self, *words: object) -> str:
        """Run buildah and return its output.

        Raises:
            CannotBuild: it failed; the message has its error.
        """
        command = ["buildah", *map(str, words)]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=600
        )
        if done.returncode:
            raise CannotBuild(f"{' '.join(command[:4])}: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def make_python_base(self, name: str) -> None:
        """Build ``name`` from Debian's packages: Python and pip where the official image has them."""
        root = self.folder / "base"
        made = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
        done = subprocess.run(made, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise CannotBuild(f"{' '.join(made)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        for link, program in (("python", "python3"), ("python3", "python3"), ("pip", "pip3")):
            (root / "usr/local/bin" / link).symlink_to(f"/usr/bin/{program}")
        # The machine's way to a package index: its certificates, proxies and pip settings.
        certificates = Path("/etc/ssl/certs/ca-certificates.crt")
        if certificates.exists():
            shutil.copy(certificates, root / "etc/ssl/certs")
        given = [(key, os.environ.get(f"PIP_{key}")) for key in PIP_SETTINGS]
        lines = [f"{key.lower().replace('_', '-')} = {value}\n" for key, value in given if value]
        (root / "etc/pip.conf").write_text("[global]\n" + "".join(lines))
        container = self.buildah("from", "scratch")
        self.buildah("add", "-q", container, root, "/")
        self.buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
        self.buildah("commit", "-q", container, name)
        self.buildah("rm", container)
        shutil.rmtree(root)

    def pulled(self, reference: str) -> Image:
        """Pull an image from a registry on this machine, mount it and return it as pods run it."""
        container = self.buildah("from", "--quiet", "--pull-always", "--tls-verify=false", reference)
        root = Path(self.buildah("mount", container))
        facts = json.loads(self.buildah("inspect", "--type", "image", reference))
        config: dict[str, Any] = facts["OCIv1"].get("config", {})
        user, _, group = str(config.get("User") or "0:0").partition(":")
        links = [(f"/{one.name}", os.readlink(one)) for one in root.iterdir() if one.is_symlink()]
        folders = [one for one in root.iterdir() if one.is_dir() and not one.is_symlink()]
        mounts = [one for one in folders if one.name not in OF_THE_RUNTIME]
        mounts += [
            one for one in (root / "etc").iterdir()
            if one.name not in OF_THE_POD and not one.is_symlink()
        ]  # fmt: skip
        return Image(
            reference.partition("@")[0].rpartition("/")[2],
            tuple(Mount(str(one), f"/{one.relative_to(root)}") for one in mounts),
            tuple(links),
            tuple(config.get("Entrypoint") or ()),
            tuple(config.get("Cmd") or ()),
            dict(word.split("=", 1) for word in config.get("Env", [])),
            (int(user), int(group or 0)),
            config.get("WorkingDir") or "/",
            config["Labels"],
        )


@contextmanager
def storage(folder: Path) -> Iterator[Storage]:
    """Yield a storage; unmount and remove it at the end."""
    made = Storage(folder)
    try:
        yield made
    finally:
        # The driver mounts its own folder too, and leaves it mounted.
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(f"{folder}/"):
                subprocess.run(["umount", line.split()[1]], capture_output=True, check=False, timeout=30)
        shutil.rmtree(folder)
