"""Faults that once passed every check, planted again in a working copy: each is found by the check that names it.

All faults that survive validation are planted together, so that one apply on mocks finds them all. Faults of a
module's inputs are refused by `terraform plan` of that module alone.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from terraform_check import findings
from terraform_check.layout import INFRASTRUCTURE
from terraform_check.runs import Run, Workspace

pytestmark = [pytest.mark.programs, pytest.mark.timeout(1200)]

CONTRACT = yaml.safe_load((INFRASTRUCTURE / "contract.yaml").read_text())
TAGS = CONTRACT["tags"]
GPU_TAINTS = CONTRACT["pools"]["gpu"]["taints"]


@dataclass(frozen=True)
class Fault:
    """Text to replace in a file, and the check that must report it with ``message``."""

    file: str
    old: str
    new: str
    check: Callable[[Run], list[str]]
    message: str


FAULTS = {
    "a second cluster-tagged security group on nodes": Fault(
        "modules/system-node-group/main.tf",
        "vpc_security_group_ids = [var.security_group_id]",
        'vpc_security_group_ids = [var.security_group_id, "sg-primary"]',
        lambda run: findings.node_security_groups(run.resources, "llm-dev"),
        'module.system_nodes["a"].module.nodes.aws_launch_template.this[0]: 2 security groups tagged for llm-dev, not 1',
    ),
    "a node group with a fixed name": Fault(
        "modules/gpu-node-group/main.tf",
        "use_name_prefix          = true",
        "use_name_prefix          = false",
        lambda run: findings.fixed_node_groups(run.resources),
        'module.gpu_nodes["a"].module.nodes.aws_eks_node_group.this[0]: node_group_name is fixed',
    ),
    "a repository that both environments create": Fault(
        "modules/conventions/outputs.tf",
        '"${local.name}/${image}"',
        '"llm-platform/${image}"',
        lambda run: findings.names_without(run.resources, "dev"),
        "module.registry.aws_ecr_repository.this[\"llm-platform/router-service\"]: name 'llm-platform/router-service'",
    ),
    "an account-wide switch in an environment": Fault(
        "modules/budget/main.tf",
        'resource "aws_budgets_budget" "this" {',
        'resource "aws_ebs_encryption_by_default" "this" {\n  enabled = true\n}\n\nresource "aws_budgets_budget" "this" {',
        lambda run: findings.account_switches(run.resources),
        "module.budget.aws_ebs_encryption_by_default.this: belongs to infrastructure/account",
    ),
    "volumes without tags": Fault(
        "modules/cluster/main.tf",
        "extraVolumeTags = var.volume_tags, ",
        "",
        lambda run: findings.untagged_volumes(run.resources, {TAGS["environment"]: "dev"}),
        'aws_eks_addon.this["aws-ebs-csi-driver"]: volumes lack the tag llm-platform:environment=dev',
    ),
    "no agent that gives pods their AWS rights": Fault(
        "modules/cluster/main.tf",
        "    eks-pod-identity-agent = {",
        "    eks-pod-identity-agents = {",
        lambda run: findings.missing_addons(run.resources, ["eks-pod-identity-agent"]),
        "add-on eks-pod-identity-agent is not installed",
    ),
    "a GPU health agent that GPU nodes do not take": Fault(
        "modules/cluster/main.tf",
        'tolerations = [{ operator = "Exists" }]',
        "tolerations = []",
        lambda run: findings.untolerated_taints(run.resources, GPU_TAINTS),
        'aws_eks_addon.this["eks-node-monitoring-agent"]: dcgm-server does not tolerate nvidia.com/gpu=present:NoSchedule',
    ),
    "GPU nodes that the node autoscaler does not know as such": Fault(
        "contract.yaml",
        "      k8s.amazonaws.com/accelerator: nvidia\n",
        "",
        lambda run: findings.unlabelled_gpu_groups(run.resources),
        'module.gpu_nodes["a"].module.nodes.aws_eks_node_group.this[0]: lacks the label k8s.amazonaws.com/accelerator',
    ),
    "no rights for the load balancer controller": Fault(
        "modules/controllers/main.tf",
        'var.accounts["aws-load-balancer-controller"].service_account',
        '"default"',
        lambda run: findings.unbound_accounts(
            run.resources, [("kube-system", "aws-load-balancer-controller")]
        ),
        "kube-system/aws-load-balancer-controller has no Pod Identity association",
    ),
    "an output that is null": Fault(
        "environments/outputs.tf",
        "    endpoint    = module.cluster.endpoint",
        "    endpoint    = null",
        lambda run: findings.empty_outputs(run.outputs),
        "output access.endpoint is null",
    ),
}


@pytest.fixture(scope="module")
def faulty(copy_of: Callable[[Path, Path], Workspace], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An apply of dev on mocks with every fault planted."""
    folder = tmp_path_factory.mktemp("faulty")
    planted = folder / "planted"
    shutil.copytree(INFRASTRUCTURE, planted, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    for name, fault in FAULTS.items():
        path = planted / fault.file
        text = path.read_text()
        assert fault.old in text, f"{name}: {fault.file} no longer holds the text to replace"
        path.write_text(text.replace(fault.old, fault.new))
    workspace = copy_of(planted, folder / "copy")
    run = workspace.test("environments", "apply.tftest.hcl", "-var-file=dev.tfvars")
    assert run.errors == []
    return run


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_reported(name: str, faulty: Run) -> None:
    fault = FAULTS[name]
    found = fault.check(faulty)
    assert any(fault.message in line for line in found), found


def test_a_node_group_over_three_zones_is_reported() -> None:
    """The module takes one subnet, so this fault needs no run: the input's type refuses a list."""
    text = (INFRASTRUCTURE / "modules" / "gpu-node-group" / "variables.tf").read_text()
    assert 'variable "subnet_id" {' in text
    assert "subnet_ids" not in text
