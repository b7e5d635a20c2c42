"""What the infrastructure tests share: the schema, the terraform binary, a folder with planted code."""

import os
import shutil

import pytest
from terraform_check import checks, provider_schema
from terraform_check.layout import FOLDERS, REPOSITORY


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
    """Path of the terraform binary; without one the test fails unless ALLOW_MISSING names it."""
    binary = shutil.which("terraform")
    if binary is None:
        if "terraform" in os.environ.get("ALLOW_MISSING", "").replace(",", " ").split():
            pytest.skip("terraform: not on PATH and allowed to be missing: fmt and module tests did not run")
        pytest.fail(
            "terraform is not on PATH. Install it (https://developer.hashicorp.com/terraform/install) "
            "or run with ALLOW_MISSING=terraform, which leaves these checks out."
        )
    return binary
