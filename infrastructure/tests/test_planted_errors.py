"""Each kind of mistake, planted on purpose, is found, and the finding says in which file and line."""

import subprocess
from pathlib import Path

import pytest

from terraform_check.checks import check_folder, check_pool_wiring
from terraform_check.layout import INFRASTRUCTURE
from terraform_check.provider_schema import Schema

CLUSTER = """
resource "aws_eks_cluster" "this" {
  name     = "x"
  role_arn = "arn:aws:iam::123456789012:role/x"
  vpc_config {
    subnet_ids = ["subnet-1"]
  }
}
"""

PLANTED = {
    "unknown attribute": (
        CLUSTER.replace('  name     = "x"', '  name     = "x"\n  colour   = "red"'),
        "main.tf:4: aws_eks_cluster has no argument colour",
    ),
    "unknown block": (
        CLUSTER.replace("vpc_config {", "network {"),
        "main.tf:5: aws_eks_cluster has no block network",
    ),
    "unknown attribute in a block": (
        CLUSTER.replace("subnet_ids =", "subnets_ids ="),
        "main.tf:6: aws_eks_cluster.vpc_config has no argument subnets_ids",
    ),
    "missing required": (
        CLUSTER.replace('  role_arn = "arn:aws:iam::123456789012:role/x"\n', ""),
        "main.tf:2: aws_eks_cluster lacks the required role_arn",
    ),
    "missing required in a block": (
        CLUSTER.replace('    subnet_ids = ["subnet-1"]\n', ""),
        "main.tf:5: aws_eks_cluster.vpc_config lacks the required subnet_ids",
    ),
    "wrong type": (
        CLUSTER.replace('["subnet-1"]', '"subnet-1"'),
        "main.tf:6: aws_eks_cluster.vpc_config.subnet_ids must be list, not string",
    ),
    "unknown resource type": (
        'resource "aws_eks_klaster" "this" {\n}\n',
        "main.tf:1: resource type aws_eks_klaster is not in AWS provider",
    ),
    "unpinned module": (
        'module "vpc" {\n  source  = "terraform-aws-modules/vpc/aws"\n  version = "~> 6.0"\n}\n',
        "main.tf:1: module vpc (terraform-aws-modules/vpc/aws) is not pinned to one version",
    ),
    "module without a version": (
        'module "vpc" {\n  source = "terraform-aws-modules/vpc/aws"\n}\n',
        "main.tf:1: module vpc (terraform-aws-modules/vpc/aws) is not pinned to one version",
    ),
    "unknown module input": (
        'module "vpc" {\n  source  = "terraform-aws-modules/vpc/aws"\n  version = "6.6.0"\n  zones   = 3\n}\n',
        "main.tf:4: module vpc (terraform-aws-modules/vpc/aws) has no input zones",
    ),
    "module input of the wrong type": (
        'module "vpc" {\n  source  = "terraform-aws-modules/vpc/aws"\n  version = "6.6.0"\n  azs     = "a"\n}\n',
        "main.tf:4: module vpc input azs must be list, not string",
    ),
    "unknown module output": (
        'module "vpc" {\n  source  = "terraform-aws-modules/vpc/aws"\n  version = "6.6.0"\n}\n'
        "locals {\n  x = module.vpc.subnets\n}\n",
        "main.tf:6: module.vpc has no output subnets",
    ),
    "undeclared variable": ("locals {\n  x = var.nobody\n}\n", "main.tf:2: var.nobody is not declared"),
    "unknown attribute of a resource": (
        CLUSTER + "locals {\n  x = aws_eks_cluster.this.url\n}\n",
        "main.tf:10: aws_eks_cluster has no attribute url",
    ),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_error_is_found_with_its_place(kind: str, schema: Schema, tmp_path: Path) -> None:
    code, expected = PLANTED[kind]
    (tmp_path / "main.tf").write_text(code)
    findings = check_folder(tmp_path, schema)
    assert any(finding.startswith(f"{tmp_path}/{expected}") for finding in findings), findings


def test_code_without_a_mistake_has_no_finding(schema: Schema, tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(CLUSTER)
    assert check_folder(tmp_path, schema) == []


def refused(terraform: str, folder: Path, code: str) -> str:
    """Plan ``code`` for real; return what terraform says when it refuses."""
    (folder / "main.tf").write_text(code)
    for command in (["init"], ["plan", "-input=false", "-no-color"]):
        done = subprocess.run([terraform, *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode != 0, done.stdout
    return " ".join(done.stderr.split())


def test_a_public_endpoint_is_refused_with_its_line_and_value(terraform: str, tmp_path: Path) -> None:
    source = INFRASTRUCTURE / "modules" / "api-access"
    said = refused(
        terraform,
        tmp_path,
        f'module "api" {{\n  source           = "{source}"\n  api_access_cidrs = ["0.0.0.0/0"]\n}}\n',
    )
    assert "main.tf line 3" in said
    assert "0.0.0.0/0 opens the API endpoint to the world" in said


@pytest.mark.parametrize(
    "kind", ["g4dn.xlarge", "g4ad.xlarge", "g5g.xlarge", "p3.2xlarge", "p2.xlarge", "m7i.large"]
)
def test_a_type_without_a_gpu_of_compute_capability_8_is_refused(
    kind: str, terraform: str, tmp_path: Path
) -> None:
    """Only the variable is planned, so no provider is needed."""
    text = (INFRASTRUCTURE / "modules" / "gpu-node-group" / "variables.tf").read_text()
    begin = text.index('variable "instance_types"')
    (tmp_path / "terraform.tfvars").write_text(f'instance_types = ["g6.xlarge", "{kind}"]')
    said = refused(terraform, tmp_path, text[begin : text.index("\n}\n", begin) + 3])
    assert f"[g6.xlarge, {kind}]: each must have NVIDIA GPUs of compute capability 8.0 or later" in said


def test_a_gpu_group_with_the_taints_of_another_pool_is_found(tmp_path: Path) -> None:
    text = (INFRASTRUCTURE / "environments" / "main.tf").read_text()
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "pools.gpu.taints" in row)
    (tmp_path / "main.tf").write_text(text.replace("pools.gpu.taints", "pools.system.taints"))
    expected = (
        f"{tmp_path}/main.tf:{line}: taints of module gpu_nodes must be module.conventions.pools.gpu.taints"
    )
    assert [finding[: len(expected)] for finding in check_pool_wiring(tmp_path)] == [expected]
