"""Runs terraform on the root module with the files and the state of one environment.

Every environment has its own data directory and state, so environments cannot affect each other.
It passes Terraform's output through.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from platform_tools.environment_files import variable_files

KEEPS = {"aws_s3_bucket": ("bucket", "force_destroy"), "aws_ecr_repository": ("name", "force_delete")}
"""By resource type: the attribute with its name, and the attribute that lets Terraform delete its content."""


class TerraformFailed(RuntimeError):
    """Terraform is missing or exited with an error; the message names the command."""


class Terraform:
    """Terraform for one environment of the root in ``folder``.

    ``data_folder`` keeps providers, modules and the backend's settings (TF_DATA_DIR). ``region`` overrides the
    region of the environment's variable file; None keeps it.
    """

    def __init__(self, folder: Path, environment: str, data_folder: Path, region: str | None = None) -> None:
        self._folder = folder
        self._environment = environment
        self._data_folder = data_folder
        self._region = region

    @property
    def state(self) -> str:
        """Return the location of the state: the S3 key, or the path of a local file."""
        if (self._folder / "backend_override.tf").exists():
            return f"llm-platform/{self._environment}.tfstate in the bucket of backend_override.tf"
        return str(self._folder / f"{self._environment}.tfstate")

    def init(self) -> None:
        """Fetch providers and modules, and select the environment's state."""
        if (self._folder / "backend_override.tf").exists():
            state = f"key=llm-platform/{self._environment}.tfstate"
        else:
            state = f"path={self._environment}.tfstate"
        self._run("init", "-input=false", f"-backend-config={state}")

    def plan(self, file: Path, *, destroy: bool = False) -> bool:
        """Write a plan and show it; return whether it contains changes."""
        more = ["-destroy"] if destroy else []
        more += [f"-var-file={path}" for path in variable_files(self._folder, self._environment)]
        if self._region is not None:
            more.append(f"-var=region={self._region}")
        code = self._run("plan", "-input=false", "-detailed-exitcode", f"-out={file}", *more, fine=(0, 2))
        return code == 2

    def apply(self, file: Path) -> None:
        """Apply the plan in ``file``."""
        self._run("apply", "-input=false", str(file))

    def output(self, name: str) -> Any:
        """Return the value of one output."""
        return self._json("output", "-json", name)

    def kept(self, plan: Path) -> list[tuple[str, str]]:
        """Return (type, name) of each bucket and repository that a destroy refuses to delete while it has content."""
        shown = self._json("show", "-json", str(plan))
        return list(_kept(shown.get("prior_state", {}).get("values", {}).get("root_module", {})))

    def _json(self, *arguments: str) -> Any:
        done = subprocess.run(
            [self._binary(), *arguments],
            cwd=self._folder,
            env=self._variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise TerraformFailed(f"terraform {arguments[0]} {arguments[-1]}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def _run(self, *arguments: str, fine: tuple[int, ...] = (0,)) -> int:
        done = subprocess.run(
            [self._binary(), *arguments], cwd=self._folder, env=self._variables(), check=False
        )
        if done.returncode not in fine:
            raise TerraformFailed(
                f"terraform {arguments[0]} in {self._folder} for {self._environment} exited with "
                f"{done.returncode}{self._missing_file(arguments[0])}"
            )
        return done.returncode

    def _missing_file(self, command: str) -> str:
        """Return the remedy for variables without a value, the usual reason of a first plan's failure."""
        own = self._folder / f"{self._environment}.local.tfvars"
        if command != "plan" or own.exists():
            return ""
        return f"; if a variable has no value: cp {self._folder}/local.tfvars.example {own}, and fill it in"

    def _variables(self) -> dict[str, str]:
        return {**os.environ, "TF_DATA_DIR": str(self._data_folder)}

    def _binary(self) -> str:
        found = shutil.which("terraform")
        if found is None:
            raise TerraformFailed(
                "terraform is not on PATH: install it (https://developer.hashicorp.com/terraform/install)"
            )
        return found


def _kept(module: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for resource in module.get("resources", []):
        if resource["mode"] == "managed" and resource["type"] in KEEPS:
            name, switch = KEEPS[resource["type"]]
            if not resource["values"].get(switch):
                yield resource["type"], resource["values"][name]
    for child in module.get("child_modules", []):
        yield from _kept(child)
