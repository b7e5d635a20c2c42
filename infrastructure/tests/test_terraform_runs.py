"""The real terraform on every root with each of its variable files: validate, plan, apply on mocks.

Needs providers and upstream modules (docs/infrastructure.md): by the registry, or by TF_PLUGIN_DIR and TF_MODULES_DIR.
The plan uses the real provider with dummy keys; the apply makes up what AWS would compute.
"""

import datetime
import json
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from platform_tools.environment_files import environments
from terraform_check import findings
from terraform_check.layout import FOLDERS, INFRASTRUCTURE, REPOSITORY
from terraform_check.runs import Run, Workspace
from terraform_check.source import read_folder

pytestmark = [pytest.mark.programs, pytest.mark.timeout(1200)]

ENVIRONMENTS = environments(INFRASTRUCTURE)
CONTRACT = yaml.safe_load((INFRASTRUCTURE / "contract.yaml").read_text())
ADDON_VERSIONS = yaml.safe_load((INFRASTRUCTURE / "addon-versions.yaml").read_text())
ROOTS = [folder.name for folder in FOLDERS if folder.parent == INFRASTRUCTURE]
Runs = dict[tuple[str, str], Run]


@pytest.fixture(scope="module")
def runs(workspace: Workspace) -> Iterator[Runs]:
    """Results by kind (plan, apply) and environment; the summary goes to .run/terraform/result.md."""
    found: Runs = {}
    yield found
    target = REPOSITORY / ".run" / "terraform" / "result.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(summary(workspace, found))


def result(workspace: Workspace, runs: Runs, kind: str, environment: str) -> Run:
    """Return the run of one test file for one environment, run once."""
    if (kind, environment) not in runs:
        runs[kind, environment] = workspace.test(
            "environments", f"{kind}.tftest.hcl", f"-var-file={environment}.tfvars"
        )
    return runs[kind, environment]


def summary(workspace: Workspace, runs: Runs) -> str:
    """Return the result of this run as a page for docs/results/terraform.md."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.strip()
    rows = [
        f"| {kind} | {environment} | {len(run.resources)} | {'passed' if run.passed else 'FAILED'} | {run.seconds:.0f} |"
        for (kind, environment), run in sorted(runs.items())
    ]
    adapted = condensed(workspace.adapted) or ["Nothing: the provider satisfies the code's constraint."]
    return "\n".join(
        [
            "# Terraform without an account: last result",
            "",
            f"{datetime.date.today()}, commit {commit}, AWS provider {workspace.provider}. Written by",
            "`infrastructure/tests/test_terraform_runs.py`; a plan uses the real provider with dummy keys, an apply uses",
            "mocks. Seconds are wall time on a machine with other load.",
            "",
            f"Upstream modules: {', '.join(upstream_modules(workspace))}.",
            "",
            "| run | environment | objects | result | seconds |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "## What the working copy adapted",
            "",
            *(f"- {line}" for line in adapted),
            "",
        ]
    )


def upstream_modules(workspace: Workspace) -> list[str]:
    """Return name and version of each upstream module in the manifest of the environments' root."""
    manifest = workspace.infrastructure / "environments" / ".terraform" / "modules" / "modules.json"
    calls = json.loads(manifest.read_text())["Modules"]
    found = {(call["Source"].partition("//")[0], call["Version"]) for call in calls if "Version" in call}
    return [f"{source.removeprefix('registry.terraform.io/')} {version}" for source, version in sorted(found)]


def condensed(adapted: list[str]) -> list[str]:
    """Return the changes with the number of their places; those that drop ``region`` become one line."""
    lines, regions = [], 0
    for line in adapted:
        change, _, places = line.rpartition(": ")
        count = len(places.split(", "))
        if change.endswith(": region dropped"):
            regions += count
        else:
            lines.append(f"{change} ({count} places)" if count > 1 else change)
    return (
        [*lines, f"argument region dropped from resources and data sources ({regions} places)"]
        if lines
        else []
    )


@pytest.mark.parametrize("root", ROOTS)
def test_terraform_validates_every_root(workspace: Workspace, root: str) -> None:
    """Validating a root validates every module it calls."""
    workspace.validate(root)


def test_every_module_is_called_by_a_root() -> None:
    called: set[str] = set()
    waiting = [INFRASTRUCTURE / root for root in ROOTS]
    while waiting:
        folder = waiting.pop()
        for block in read_folder(folder):
            source = block.literal("source") or ""
            if block.kind == "module" and source.startswith("."):
                waiting.append((folder / source).resolve())
                called.add(waiting[-1].name)
    assert called == {path.name for path in (INFRASTRUCTURE / "modules").iterdir()}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("kind", ["plan", "apply"])
def test_every_environment_plans_and_applies(
    workspace: Workspace, runs: Runs, kind: str, environment: str
) -> None:
    run = result(workspace, runs, kind, environment)
    assert run.errors == []
    assert run.passed
    assert len(run.resources) > 100, f"only {len(run.resources)} objects"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_planned_iam_documents_are_complete(workspace: Workspace, runs: Runs, environment: str) -> None:
    run = result(workspace, runs, "plan", environment)
    assert len(run.of_type("aws_iam_role")) >= 6
    assert findings.bad_documents(run.resources) == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_output_is_null(workspace: Workspace, runs: Runs, environment: str) -> None:
    run = result(workspace, runs, "apply", environment)
    assert run.outputs
    assert findings.empty_outputs(run.outputs) == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_node_group_stays_in_one_zone(workspace: Workspace, runs: Runs, environment: str) -> None:
    run = result(workspace, runs, "apply", environment)
    assert findings.node_group_zones(run.resources) == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_node_interfaces_have_one_security_group_of_the_cluster(
    workspace: Workspace, runs: Runs, environment: str
) -> None:
    run = result(workspace, runs, "apply", environment)
    assert run.of_type("aws_launch_template")
    assert findings.node_security_groups(run.resources, f"llm-{environment}") == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_node_groups_can_be_replaced(workspace: Workspace, runs: Runs, environment: str) -> None:
    run = result(workspace, runs, "apply", environment)
    assert run.of_type("aws_eks_node_group")
    assert findings.fixed_node_groups(run.resources) == []


def test_two_environments_fit_into_one_account_and_region(workspace: Workspace, runs: Runs) -> None:
    dev, prod = (result(workspace, runs, "plan", name).resources for name in ("dev", "prod"))
    assert len(findings.names(dev)) > 30
    assert findings.names_without(dev, "dev") == []
    assert findings.names_without(prod, "prod") == []
    assert findings.shared_names(dev, prod) == []
    assert findings.account_switches([*dev, *prod]) == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_volume_carries_the_tags_of_its_environment(
    workspace: Workspace, runs: Runs, environment: str
) -> None:
    tags = CONTRACT["tags"]
    wanted = {tags["project"]: "llm", tags["environment"]: environment}
    run = result(workspace, runs, "apply", environment)
    assert findings.untagged_volumes(run.resources, wanted) == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_prerequisites_of_the_charts_are_there(workspace: Workspace, runs: Runs, environment: str) -> None:
    """The node monitoring agent, and the rights and values of every controller the environment installs."""
    run = result(workspace, runs, "apply", environment)
    installed = set(run.outputs["release_values"])
    assert "aws-load-balancer-controller" in installed
    assert ("cluster-autoscaler" in installed) == (environment == "prod")
    assert installed <= set(CONTRACT["controllers"])
    bound = [CONTRACT["controllers"][name] for name in sorted(installed)]
    accounts = [(entry["namespace"], entry["service_account"]) for entry in bound]
    assert findings.unbound_accounts(run.resources, accounts) == []
    assert (
        findings.missing_addons(run.resources, ["eks-node-monitoring-agent", "eks-pod-identity-agent"]) == []
    )
    controller = run.outputs["release_values"]["aws-load-balancer-controller"]
    assert {"clusterName", "region", "vpcId"} <= set(controller)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_gpu_nodes_take_the_health_agent_and_are_known_to_the_autoscaler(
    workspace: Workspace, runs: Runs, environment: str
) -> None:
    run = result(workspace, runs, "apply", environment)
    assert any("NVIDIA" in group.values["ami_type"] for group in run.of_type("aws_eks_node_group"))
    assert findings.untolerated_taints(run.resources, CONTRACT["pools"]["gpu"]["taints"]) == []
    assert findings.unlabelled_gpu_groups(run.resources) == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_addon_has_its_pinned_version(workspace: Workspace, runs: Runs, environment: str) -> None:
    run = result(workspace, runs, "apply", environment)
    (cluster,) = run.of_type("aws_eks_cluster")
    pins = ADDON_VERSIONS[cluster.values["version"]]
    addons = {
        addon.values["addon_name"]: addon.values["addon_version"] for addon in run.of_type("aws_eks_addon")
    }
    assert addons == {name: pin["version"] for name, pin in pins.items()}


def test_a_kubernetes_version_without_pinned_addons_is_refused(workspace: Workspace) -> None:
    words = ("-var-file=dev.tfvars", "-var=kubernetes_version=1.36")
    run = workspace.test("environments", "plan.tftest.hcl", *words)
    assert not run.passed
    assert any("Kubernetes 1.36: add-ons have no version" in error for error in run.errors), run.errors
