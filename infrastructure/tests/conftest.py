"""Fixtures of the infrastructure tests: the schema, the terraform binary, and working copies it can run in."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.programs import require
from terraform_check import checks, provider_schema
from terraform_check.layout import FOLDERS, INFRASTRUCTURE, REPOSITORY
from terraform_check.runs import Workspace, offline_workspace
from terraform_check.upstream import Mirror, NotAtHand

REGISTRY = "registry.terraform.io"


@pytest.fixture(scope="session")
def schema() -> provider_schema.Schema:
    """The AWS schema of every type we use, and of those the planted errors use."""
    packages = sorted((REPOSITORY / ".venv-tools").glob("lib/python*/site-packages"))
    if not packages:
        pytest.fail(
            ".venv-tools is missing: python3 -m venv .venv-tools && "
            ".venv-tools/bin/pip install --require-hashes -r requirements/tools.lock"
        )
    return provider_schema.load(
        packages[0],
        REPOSITORY / ".run" / "aws-schema.json",
        checks.wanted_types(FOLDERS) | {"aws_eks_cluster"},
    )


@pytest.fixture(scope="session")
def terraform() -> str:
    """Path of the terraform binary; without one the test is skipped, or fails with STRICT=1."""
    return require("terraform", "install it: https://developer.hashicorp.com/terraform/install")


@pytest.fixture(scope="session")
def copy_of(terraform: str) -> Callable[[Path, Path], Workspace]:
    """Return a function (infrastructure, into) that makes a working copy, offline where both folders are given.

    Without the folders and without the registry the test is skipped by name.
    """

    def make(infrastructure: Path, into: Path) -> Workspace:
        plugins, modules = os.environ.get("TF_PLUGIN_DIR"), os.environ.get("TF_MODULES_DIR")
        if plugins and modules:
            mirror = Mirror(Path(plugins).resolve(), Path(modules).resolve())
            try:
                return offline_workspace(
                    terraform, infrastructure, into, mirror, REPOSITORY / ".run" / "terraform"
                )
            except NotAtHand as error:
                pytest.fail(str(error))
        try:
            socket.create_connection((REGISTRY, 443), timeout=3).close()
        except OSError as error:
            pytest.skip(
                f"terraform: {REGISTRY} not reachable ({error}), and TF_PLUGIN_DIR and TF_MODULES_DIR are not both "
                "set: init, validate, plan and apply did not run"
            )
        shutil.copytree(
            infrastructure,
            into / "infrastructure",
            ignore=shutil.ignore_patterns(".terraform*", "*.local.tfvars"),
        )
        return Workspace(terraform, into, None, "as the registry has it")

    return make


@pytest.fixture(scope="session")
def workspace(
    copy_of: Callable[[Path, Path], Workspace], tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """A working copy of the committed code."""
    return copy_of(INFRASTRUCTURE, tmp_path_factory.mktemp("terraform"))
