"""The committed Terraform holds against schema, pinned modules, contract and its own house rules."""

import re
import shutil
import subprocess
from pathlib import Path

import hcl2
import pytest
import yaml

from platform_tools.environment_files import environments
from terraform_check.checks import check_folder, check_pool_wiring
from terraform_check.layout import FOLDERS, INFRASTRUCTURE, REPOSITORY
from terraform_check.module_readme import readme
from terraform_check.provider_schema import Schema
from terraform_check.source import read_folder

PROVIDER_FREE = ["api-access", "cidr-plan", "conventions", "node-plan"]


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


def test_versions_of_provider_and_modules_are_those_of_versions_yaml() -> None:
    listed = yaml.safe_load((REPOSITORY / "versions.yaml").read_text())
    modules, providers = set(), set()
    for folder in FOLDERS:
        for block in read_folder(folder):
            source = block.literal("source") or ""
            if block.kind == "module" and not source.startswith("."):
                modules.add((source.partition("//")[0], block.literal("version")))
        if folder.parent == INFRASTRUCTURE:
            text = (folder / "versions.tf").read_text()
            providers |= set(re.findall(r'source\s+= "([^"]+)"\s+version = "([^"]+)"', text))
    assert {(one["source"], one["version"]) for one in listed["terraform_modules"].values()} == modules
    assert {
        (one["source"].removeprefix("registry.terraform.io/"), one["version"])
        for one in listed["providers"].values()
    } == providers


ENVIRONMENTS = INFRASTRUCTURE / "environments"


def tfvars(name: str) -> dict[str, object]:
    """Return the variables a file under environments/ sets, without python-hcl2's marks."""
    found = hcl2.loads((ENVIRONMENTS / name).read_text())
    return {name: value for name, value in found.items() if not name.startswith("__")}


def test_every_environment_sets_the_same_variables_and_all_that_have_no_default() -> None:
    """A variable is set by each environment, or by each installation (local.tfvars.example), never by some."""
    needed = {
        block.labels[0]
        for block in read_folder(ENVIRONMENTS)
        if block.kind == "variable" and "default" not in block.attributes
    }
    own = set(tfvars("local.tfvars.example"))
    for environment in environments(INFRASTRUCTURE):
        given = set(tfvars(f"{environment}.tfvars"))
        assert needed <= given | own, environment
        assert given == set(tfvars("dev.tfvars")), environment
        assert given & own == set(), environment


def test_the_root_holds_module_calls_only() -> None:
    kinds = {block.kind for block in read_folder(ENVIRONMENTS)}
    assert kinds <= {"module", "variable", "output", "terraform", "provider", "data"}


def test_every_output_of_an_environment_is_read() -> None:
    """cluster-up reads the outputs, and a chart's template reads every value that cluster-up hands over."""
    repository = INFRASTRUCTURE.parent
    reader = (repository / "tools/platform-tools/src/platform_tools/cluster_lifecycle/cluster.py").read_text()
    templates = "".join(
        path.read_text() for path in (repository / "helm").glob("*/templates/*") if path.is_file()
    )
    outputs = {block.labels[0]: block for block in read_folder(ENVIRONMENTS) if block.kind == "output"}
    assert {name for name in outputs if f'output("{name}")' not in reader} == set()
    handed_over = outputs["deploy_values"].attributes["value"].value["global"]
    assert len(handed_over) >= 4
    assert {key for key in handed_over if not re.search(rf"global\)?\.{key}\b", templates)} == set()


def test_every_environment_has_node_groups() -> None:
    groups = yaml.safe_load((INFRASTRUCTURE / "node-groups.yaml").read_text())
    assert sorted(groups) == environments(INFRASTRUCTURE)


@pytest.mark.parametrize("environment", environments(INFRASTRUCTURE))
def test_every_addon_is_pinned_for_the_kubernetes_version_in_use(environment: str) -> None:
    """The cluster module installs the EKS add-ons of its eks module and those it creates itself."""
    tfvars = (ENVIRONMENTS / f"{environment}.tfvars").read_text()
    (version,) = re.findall(r'^kubernetes_version\s*=\s*"([^"]+)"', tfvars, re.MULTILINE)
    pins = yaml.safe_load((INFRASTRUCTURE / "addon-versions.yaml").read_text())[version]
    blocks = read_folder(INFRASTRUCTURE / "modules" / "cluster")
    (eks,) = (block for block in blocks if block.kind == "module" and "addons" in block.attributes)
    own = {b.attributes["addon_name"].value.strip('"') for b in blocks if b.labels[:1] == ["aws_eks_addon"]}
    assert own | eks.attributes["addons"].value.keys() == pins.keys()
    for name, pin in pins.items():
        assert re.fullmatch(r"v\d+\.\d+\.\d+-eksbuild\.\d+", pin["version"]), name
        assert pin["source"], name
    assert pins["kube-proxy"]["version"].startswith(f"v{version}.")


def test_the_gpu_pool_of_the_contract_is_tainted_with_what_the_gpu_group_demands() -> None:
    contract = yaml.safe_load((INFRASTRUCTURE / "contract.yaml").read_text())
    keys = [taint["key"] for taint in contract["pools"]["gpu"]["taints"]]
    assert "nvidia.com/gpu" in keys
    assert contract["pools"]["gpu"]["labels"][contract["pool_label"]] == "gpu"
    assert contract["pools"]["system"]["labels"][contract["pool_label"]] == "system"


def test_node_groups_take_labels_and_taints_from_the_contract() -> None:
    assert check_pool_wiring(ENVIRONMENTS) == []


def test_the_api_endpoint_is_private_by_default() -> None:
    default = next(
        block.attributes["default"]
        for block in read_folder(ENVIRONMENTS)
        if block.kind == "variable" and block.labels[0] == "api_access_cidrs"
    )
    assert default.value == [], f"{ENVIRONMENTS}/variables.tf:{default.line}"


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
    for facts in ("contract.yaml", "node-groups.yaml"):
        shutil.copy(INFRASTRUCTURE / facts, tmp_path / facts)
    folder = tmp_path / "modules" / module
    for command in (["init", "-backend=false"], ["test", "-no-color"]):
        done = subprocess.run([terraform, *command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* passed, 0 failed", done.stdout), done.stdout


@pytest.mark.parametrize("folder", sorted((INFRASTRUCTURE / "modules").iterdir()), ids=name_of)
def test_a_modules_readme_is_as_generated(folder: Path) -> None:
    assert (folder / "README.md").read_text() == readme(folder), "run: make generate"
