"""The committed Terraform holds against schema, pinned modules, contract and its own house rules."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from terraform_check.checks import check_folder, check_pool_wiring
from terraform_check.layout import FOLDERS, INFRASTRUCTURE
from terraform_check.module_readme import readme
from terraform_check.provider_schema import Schema
from terraform_check.source import read_folder

PROVIDER_FREE = ["api-access", "cidr-plan", "conventions"]


def name_of(folder: Path) -> str:
    return str(folder.relative_to(INFRASTRUCTURE))


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_every_argument_input_and_reference_exists_and_fits(folder: Path, schema: Schema) -> None:
    assert check_folder(folder, schema) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_every_variable_and_output_is_described_and_typed(folder: Path) -> None:
    bare = [
        block.where
        for block in read_folder(folder)
        if (block.kind == "variable" and not {"type", "description"} <= set(block.attributes))
        or (block.kind == "output" and "description" not in block.attributes)
    ]
    assert bare == []


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_provider_versions_have_an_upper_bound(folder: Path) -> None:
    text = (folder / "versions.tf").read_text()
    for version in re.findall(r"\n\s+version = \"([^\"]+)\"", text):
        assert "<" in version or version.startswith("~>"), (
            f"{folder}/versions.tf: {version} has no upper bound"
        )


def test_environments_differ_only_in_variables_and_state() -> None:
    dev, prod = (INFRASTRUCTURE / "environments" / name for name in ("dev", "prod"))
    for name in ("main.tf", "outputs.tf", "versions.tf"):
        assert (dev / name).read_text() == (prod / name).read_text(), name
    assert {block.kind for block in read_folder(dev)} <= {
        "module",
        "variable",
        "output",
        "terraform",
        "provider",
        "data",
    }


def test_the_gpu_pool_of_the_contract_is_tainted_with_what_the_gpu_group_demands() -> None:
    contract = yaml.safe_load((INFRASTRUCTURE / "contract.yaml").read_text())
    keys = [taint["key"] for taint in contract["pools"]["gpu"]["taints"]]
    assert "nvidia.com/gpu" in keys
    assert contract["pools"]["gpu"]["labels"][contract["pool_label"]] == "gpu"
    assert contract["pools"]["system"]["labels"][contract["pool_label"]] == "system"


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_node_groups_take_labels_and_taints_from_the_contract(environment: str) -> None:
    assert check_pool_wiring(INFRASTRUCTURE / "environments" / environment) == []


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_the_api_endpoint_is_private_by_default(environment: str) -> None:
    for block in read_folder(INFRASTRUCTURE / "environments" / environment):
        if block.kind == "variable" and block.labels[0] == "api_access_cidrs":
            assert block.attributes["default"].value == [], block.at("default")
            return
    pytest.fail("no variable api_access_cidrs")


def test_terraform_formats_every_file_as_committed(terraform: str) -> None:
    done = subprocess.run(
        [terraform, "fmt", "-check", "-recursive", "-diff", INFRASTRUCTURE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", PROVIDER_FREE)
def test_provider_free_modules_pass_their_own_terraform_tests(
    module: str, terraform: str, tmp_path: Path
) -> None:
    shutil.copytree(INFRASTRUCTURE / "modules" / module, tmp_path / "modules" / module)
    shutil.copy(INFRASTRUCTURE / "contract.yaml", tmp_path / "contract.yaml")
    folder = tmp_path / "modules" / module
    for command in (["init", "-backend=false"], ["test", "-no-color"]):
        done = subprocess.run([terraform, *command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* passed, 0 failed", done.stdout), done.stdout


REGISTRY = "registry.terraform.io"
AWS_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE")
WITHOUT_DEFAULT = {
    "monthly_limit_usd": "1000",
    "alert_emails": '["oncall@example.com"]',
    "access_entries": "{}",
}
"""What a person must say of an environment; `plan` needs some value."""


@pytest.fixture(scope="module", params=["dev", "prod"])
def initialised(
    request: pytest.FixtureRequest, terraform: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An environment whose providers and modules Terraform has fetched."""
    try:
        socket.create_connection((REGISTRY, 443), timeout=3).close()
    except OSError as error:
        pytest.skip(f"terraform: {REGISTRY} not reachable ({error}): init, validate and plan did not run")
    root = tmp_path_factory.mktemp("environment")
    shutil.copytree(INFRASTRUCTURE, root / "infrastructure")
    folder = root / "infrastructure" / "environments" / str(request.param)
    run_terraform(terraform, folder, "init", "-no-color", "-input=false")
    return folder


def run_terraform(terraform: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run([terraform, *arguments], cwd=folder, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_terraform_validates_the_environment_where_its_registry_is_reachable(
    initialised: Path, terraform: str
) -> None:
    run_terraform(terraform, initialised, "validate", "-no-color")


@pytest.mark.timeout(900)
def test_terraform_plans_the_environment_where_aws_lets_it(initialised: Path, terraform: str) -> None:
    """Reads the account, changes nothing: a plan is not applied, its state is a file of the test's own."""
    if not any(os.environ.get(name) for name in AWS_CREDENTIALS):
        pytest.skip(f"terraform: no AWS credentials ({', '.join(AWS_CREDENTIALS)}): plan did not run")
    values = [f"-var={name}={value}" for name, value in WITHOUT_DEFAULT.items()]
    plan = run_terraform(
        terraform, initialised, "plan", "-no-color", "-input=false", "-lock=false", "-refresh=false", *values
    )
    assert re.search(r"Plan: [1-9]\d* to add, 0 to change, 0 to destroy", plan), plan[-2000:]


def test_the_values_of_the_plan_are_those_that_have_no_default() -> None:
    for environment in ("dev", "prod"):
        wanted = {
            block.labels[0]
            for block in read_folder(INFRASTRUCTURE / "environments" / environment)
            if block.kind == "variable" and "default" not in block.attributes
        }
        assert wanted == set(WITHOUT_DEFAULT), environment


@pytest.mark.parametrize("folder", sorted((INFRASTRUCTURE / "modules").iterdir()), ids=name_of)
def test_a_modules_readme_is_as_generated(folder: Path) -> None:
    assert (folder / "README.md").read_text() == readme(folder), "run: make generate"
