"""The terraform binary in one environment's folder. Shows its output as it comes; decides nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any


class TerraformFailed(RuntimeError):
    """Terraform is missing or ended with an error; the message says which command."""


class Terraform:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def init(self) -> None:
        self._run("init", "-input=false")

    def plan(self, file: Path, *, destroy: bool = False) -> bool:
        """Write a plan and show it; False when there is nothing to do."""
        more = ["-destroy"] if destroy else []
        code = self._run("plan", "-input=false", "-detailed-exitcode", f"-out={file}", *more, fine=(0, 2))
        return code == 2

    def apply(self, file: Path) -> None:
        self._run("apply", "-input=false", str(file))

    def output(self, name: str) -> Any:
        """Return one output's value."""
        done = subprocess.run(
            [self._binary(), "output", "-json", name],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise TerraformFailed(f"terraform output {name}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def _run(self, *arguments: str, fine: tuple[int, ...] = (0,)) -> int:
        done = subprocess.run([self._binary(), *arguments], cwd=self._folder, check=False)
        if done.returncode not in fine:
            raise TerraformFailed(f"terraform {arguments[0]} in {self._folder} ended with {done.returncode}")
        return done.returncode

    def _binary(self) -> str:
        found = shutil.which("terraform")
        if found is None:
            raise TerraformFailed(
                "terraform is not on PATH: install it (https://developer.hashicorp.com/terraform/install)"
            )
        return found
