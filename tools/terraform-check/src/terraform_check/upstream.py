"""Working copies of the Terraform code in which `terraform` runs without a registry.

`TF_PLUGIN_DIR` is a folder of provider binaries in the layout of a filesystem mirror, `TF_MODULES_DIR` a folder of
upstream modules as `<namespace>/<name>/<provider>/<version>`. Neither is ever committed. A copy holds our code, the
upstream modules it calls, and the module manifest that `terraform init` would have written.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terraform_check.source import read_file

AWS = "registry.terraform.io/hashicorp/aws"


class NotAtHand(RuntimeError):
    """A provider or an upstream module is missing; the message names it and the folder searched."""


@dataclass(frozen=True)
class Mirror:
    """Folders with provider binaries and upstream modules."""

    plugins: Path
    modules: Path

    def aws_version(self) -> str:
        """Return the newest version of the AWS provider in the folder.

        Raises:
            NotAtHand: the folder has none.
        """
        found = [path.name for path in (self.plugins / AWS).glob("*") if path.is_dir()]
        if not found:
            raise NotAtHand(f"TF_PLUGIN_DIR={self.plugins} has no folder {AWS}/<version>")
        return max(found, key=lambda version: [int(part) for part in version.split(".")])

    def has(self, provider: str) -> bool:
        """Return whether the folder has any version of ``provider``, such as ``hashicorp/tls``."""
        return any((self.plugins / "registry.terraform.io" / provider).glob("*"))

    def module(self, source: str, version: str) -> Path:
        """Return the folder of an upstream module without its ``//`` part.

        Raises:
            NotAtHand: the module or the version is missing.
        """
        folder = self.modules / source.partition("//")[0] / version
        if not folder.is_dir():
            raise NotAtHand(f"TF_MODULES_DIR={self.modules} has no folder {folder.relative_to(self.modules)}")
        return folder


def copy_code(infrastructure: Path, into: Path, mirror: Mirror) -> None:
    """Copy our code to ``into/infrastructure`` and every upstream module it uses to ``into/upstream``."""
    ours = into / "infrastructure"
    ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.local.tfvars", "backend_override.tf")
    for name in ("modules", "environments", "account"):
        if (infrastructure / name).is_dir():
            shutil.copytree(infrastructure / name, ours / name, ignore=ignored)
    for facts in infrastructure.glob("*.yaml"):
        shutil.copy(facts, ours)
    waiting = [path.parent for path in ours.rglob("main.tf")]
    while waiting:
        for _, source, version in _module_calls(waiting.pop()):
            if source.startswith("."):
                continue
            target = upstream_folder(into, source, version)
            if not target.exists():
                original = mirror.module(source, version)
                skipped = shutil.ignore_patterns(".git*", "examples", "tests", "wrappers", "docs", "*.md")
                shutil.copytree(original, target, ignore=skipped)
                waiting += {path.parent for path in target.rglob("*.tf")}


def upstream_folder(into: Path, source: str, version: str) -> Path:
    """Return the folder of the upstream module ``source`` in a copy, without its ``//`` part."""
    return into / "upstream" / source.partition("//")[0].replace("/", "-") / version


def write_manifest(into: Path, folder: Path) -> None:
    """Write ``.terraform/modules/modules.json`` of ``folder``, as `terraform init` would."""
    entries: list[dict[str, Any]] = [{"Key": "", "Source": "", "Dir": "."}]
    _collect(into, folder, folder, "", entries)
    manifest = folder / ".terraform" / "modules" / "modules.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"Modules": entries}))


def _collect(into: Path, root: Path, folder: Path, prefix: str, entries: list[dict[str, Any]]) -> None:
    for name, source, version in _module_calls(folder):
        key = f"{prefix}{name}"
        if source.startswith("."):
            target = (folder / source).resolve()
            entry = {"Key": key, "Source": source}
        else:
            target = upstream_folder(into, source, version) / source.partition("//")[2]
            entry = {"Key": key, "Source": f"registry.terraform.io/{source}", "Version": version}
        entries.append({**entry, "Dir": os.path.relpath(target.resolve(), root.resolve())})
        _collect(into, root, target, f"{key}.", entries)


@functools.cache
def _module_calls(folder: Path) -> list[tuple[str, str, str]]:
    """Return name, source and version of every module call.

    It parses only files with a module call, because parsing is slow.
    """
    return [
        (block.labels[0], block.literal("source") or "", block.literal("version") or "")
        for path in sorted(folder.glob("*.tf"))
        if '\nmodule "' in f"\n{path.read_text()}"
        for block in read_file(path)
        if block.kind == "module"
    ]


def terraform_environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment without variables that would change a run: CLI settings, input variables, credentials."""
    dropped = ("TF_", "AWS_")
    return {name: value for name, value in environment.items() if not name.startswith(dropped)}


def init(terraform: str, folder: Path, plugins: Path, environment: dict[str, str]) -> None:
    """Run `terraform init` offline in a folder that has its manifest.

    Raises:
        RuntimeError: init failed; the message is Terraform's.
    """
    done = subprocess.run(
        [terraform, "init", "-no-color", "-input=false", "-backend=false", "-get=false", f"-plugin-dir={plugins}"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{folder}: {done.stderr.strip()}")
