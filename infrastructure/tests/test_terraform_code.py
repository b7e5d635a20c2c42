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


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_terraform_validates_the_environment_where_its_registry_is_reachable(
    environment: str, terraform: str, tmp_path: Path
) -> None:
    try:
        socket.create_connection(("registry.terraform.io", 443), timeout=3).close()
    except OSError as error:
        pytest.skip(
            f"terraform: registry.terraform.io not reachable ({error}): init, validate and plan did not run"
        )
    shutil.copytree(INFRASTRUCTURE, tmp_path / "infrastructure")
    folder = tmp_path / "infrastructure" / "environments" / environment
    for command in (["init", "-backend=false", "-no-color"], ["validate", "-no-color"]):
        done = subprocess.run(
            [terraform, *command], cwd=folder, capture_output=True, text=True, env={**os.environ}
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", sorted((INFRASTRUCTURE / "modules").iterdir()), ids=name_of)
def test_a_modules_readme_is_as_generated(folder: Path) -> None:
    assert (folder / "README.md").read_text() == readme(folder), "run: make generate"
