"""One Terraform root, two environments: each has its own state, outputs and variables. Runs the real terraform."""

from pathlib import Path

import pytest

from platform_tools.cluster_lifecycle.terraform import Terraform

ROOT = """
terraform {
  backend "local" {}
}
variable "environment" { type = string }
variable "region" { type = string }
variable "owner" { type = string }
resource "terraform_data" "this" { input = var.environment }
output "all" { value = [terraform_data.this.output, var.region, var.owner] }
"""


@pytest.fixture
def root(tmp_path: Path, terraform: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TF_CLI_CONFIG_FILE", raising=False)
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "main.tf").write_text(ROOT)
    for name in ("dev", "prod"):
        (folder / f"{name}.tfvars").write_text(f'environment = "{name}"\nregion = "us-east-1"\n')
        (folder / f"{name}.local.tfvars").write_text(f'owner = "{name}-owner"\n')
    return folder


def made(root: Path, environment: str, region: str | None = None) -> Terraform:
    terraform = Terraform(root, environment, root.parent / "data" / environment, region)
    terraform.init()
    plan = root.parent / f"{environment}.plan"
    assert terraform.plan(plan)
    terraform.apply(plan)
    return terraform


def test_environments_share_no_state(root: Path) -> None:
    dev, prod = made(root, "dev"), made(root, "prod", "eu-central-1")
    assert dev.output("all") == ["dev", "us-east-1", "dev-owner"]
    assert prod.output("all") == ["prod", "eu-central-1", "prod-owner"]
    destroy = root.parent / "destroy.plan"
    assert dev.plan(destroy, destroy=True)
    dev.apply(destroy)
    assert not dev.plan(destroy, destroy=True)
    assert not prod.plan(root.parent / "again.plan"), "destroying dev changed prod"
