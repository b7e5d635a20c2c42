"""Runs the real terraform on a working copy: validate, and `terraform test` with its resources."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from terraform_check.adapt import SMALL_PROVIDERS, adapt
from terraform_check.upstream import AWS, Mirror, copy_code, init, terraform_environment, write_manifest


@dataclass(frozen=True)
class Resource:
    """One managed resource after an apply on mocks, or as planned."""

    address: str
    type: str
    values: dict[str, Any]


@dataclass
class Run:
    """Result of one test file: whether it passed, its errors, resources, outputs and duration in seconds."""

    passed: bool
    errors: list[str]
    resources: list[Resource] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def of_type(self, kind: str) -> list[Resource]:
        """Return the resources of one type."""
        return [resource for resource in self.resources if resource.type == kind]


@dataclass
class Workspace:
    """A working copy. ``adapted`` lists the copy's changes for an older provider; ``provider`` is its version."""

    terraform: str
    folder: Path
    mirror: Mirror | None
    provider: str
    adapted: list[str] = field(default_factory=list)

    @property
    def infrastructure(self) -> Path:
        return self.folder / "infrastructure"

    def init(self, root: str) -> Path:
        """Initialise a root or module below infrastructure/ once, and return its folder.

        Raises:
            RuntimeError: init failed.
        """
        folder = self.infrastructure / root
        if not (folder / ".terraform.lock.hcl").exists():
            if self.mirror is None:
                self._run(folder, "init", "-no-color", "-input=false", "-backend=false")
            else:
                write_manifest(self.folder, folder)
                init(self.terraform, folder, self.mirror.plugins, terraform_environment(dict(os.environ)))
        return folder

    def validate(self, root: str) -> None:
        """Run `terraform validate`.

        Raises:
            RuntimeError: the code is invalid; the message is Terraform's.
        """
        self._run(self.init(root), "validate", "-no-color")

    def test(self, root: str, file: str, *arguments: str) -> Run:
        """Run one test file of ``root`` and return the last state or plan it shows."""
        folder = self.init(root)
        began = time.monotonic()
        done = subprocess.run(
            [self.terraform, "test", "-json", "-verbose", f"-filter=tests/{file}", *arguments],
            cwd=folder,
            env=terraform_environment(dict(os.environ)),
            capture_output=True,
            text=True,
            check=False,
        )
        run = read_run(done.stdout)
        run.seconds = time.monotonic() - began
        if done.returncode and not run.errors:
            run.errors.append(done.stderr.strip() or done.stdout[-2000:])
        return run

    def _run(self, folder: Path, *arguments: str) -> None:
        done = subprocess.run(
            [self.terraform, *arguments],
            cwd=folder,
            env=terraform_environment(dict(os.environ)),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"terraform {arguments[0]} in {folder}: {done.stderr.strip()}")


def offline_workspace(
    terraform: str, infrastructure: Path, into: Path, mirror: Mirror, cache: Path
) -> Workspace:
    """Return a working copy that needs no registry, adapted if the local provider is older than required.

    Raises:
        NotAtHand: a provider or an upstream module is missing.
    """
    version = mirror.aws_version()
    copy_code(infrastructure, into, mirror)
    workspace = Workspace(terraform, into, mirror, version)
    missing = {name for name in SMALL_PROVIDERS if not mirror.has(f"hashicorp/{name}")}
    if missing or int(version.split(".")[0]) < 6:
        workspace.adapted = adapt(into, _schema(terraform, mirror, version, into, cache), missing)
    return workspace


def _schema(terraform: str, mirror: Mirror, version: str, into: Path, cache: Path) -> dict[str, Any]:
    """Return the AWS provider's own schema. Reading it from the binary takes seconds, so ``cache`` stores it."""
    kept = cache / f"aws-provider-{version}.json"
    if not kept.exists():
        folder = into / "schema"
        folder.mkdir()
        (folder / "main.tf").write_text(
            'terraform {\n  required_providers {\n    aws = { source = "hashicorp/aws" }\n  }\n}\n'
        )
        environment = terraform_environment(dict(os.environ))
        init(terraform, folder, mirror.plugins, environment)
        done = subprocess.run(
            [terraform, "providers", "schema", "-json"],
            cwd=folder, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        cache.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(json.loads(done.stdout)["provider_schemas"][AWS]))
    schema: dict[str, Any] = json.loads(kept.read_text())
    return schema


def read_run(text: str) -> Run:
    """Read the output of `terraform test -json -verbose`."""
    run = Run(passed=False, errors=[])
    for line in text.splitlines():
        message = json.loads(line)
        if message["type"] == "diagnostic" and message["diagnostic"]["severity"] == "error":
            found = message["diagnostic"]
            run.errors.append(f"{found.get('address', '')} {found['summary']}: {found['detail']}".strip())
        elif message["type"] == "test_state":
            state = message["test_state"]
            run.resources = list(_walk(state["root_module"]))
            run.outputs = {name: output.get("value") for name, output in state["outputs"].items()}
        elif message["type"] == "test_plan":
            run.resources = [
                Resource(change["address"], change["type"], change["change"]["after"])
                for change in message["test_plan"]["resource_changes"]
                if change["change"]["actions"] == ["create"]
            ]
        elif message["type"] == "test_summary":
            run.passed = message["test_summary"]["status"] == "pass"
    return run


def _walk(module: dict[str, Any]) -> Iterator[Resource]:
    for resource in module.get("resources", []):
        if resource["mode"] == "managed":
            yield Resource(resource["address"], resource["type"], resource["values"])
    for child in module.get("child_modules", []):
        yield from _walk(child)
