"""Command line of cluster-up, cluster-down, night-off, resume and cost-report: builds the adapters."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from platform_tools.checkout import ROOT
from platform_tools.cluster_lifecycle.bill import BadPrices, Item, hourly, read_prices, table
from platform_tools.cluster_lifecycle.cluster import Cluster, Stopped
from platform_tools.cluster_lifecycle.eks import EksNodeGroups
from platform_tools.cluster_lifecycle.kubectl import Kubectl
from platform_tools.cluster_lifecycle.night import Night, NodeGroup, NotInTime
from platform_tools.cluster_lifecycle.planned import planned
from platform_tools.cluster_lifecycle.running import Running
from platform_tools.cluster_lifecycle.terraform import Terraform, TerraformFailed
from platform_tools.environment_files import environments, variables
from platform_tools.kube_context import eks_context, kubeconfig

INFRASTRUCTURE = ROOT / "infrastructure"
NIGHT_HOURS = 12


def main(words: list[str] | None = None) -> int:
    """Exit 0: done. Exit 1: stopped, timed out or refused by a service (run again). Exit 2: wrong arguments or prices."""
    arguments = _parser().parse_args(words)
    contract = yaml.safe_load((INFRASTRUCTURE / "contract.yaml").read_text())
    try:
        _COMMANDS[arguments.command](arguments, contract)
    except BadPrices as error:
        print(error, file=sys.stderr)
        return 2
    except (Stopped, NotInTime, TerraformFailed, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    except (BotoCoreError, ClientError) as error:
        print(f"AWS: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cluster lifecycle", description=__doc__)
    parser.add_argument("command", choices=list(_COMMANDS))
    parser.add_argument(
        "environment", choices=environments(INFRASTRUCTURE), help="the cluster is llm-<environment>"
    )
    parser.add_argument("--region", help="overrides the region in the environment's .tfvars file")
    parser.add_argument("--wait-seconds", type=float, default=1800.0)
    parser.add_argument("--poll-seconds", type=float, default=5.0)
    parser.add_argument(
        "--dry-run", action="store_true", help="night-off, resume: print the actions without running them"
    )
    parser.add_argument("--yes", action="store_true", help="cluster-up, cluster-down: skip the confirmation")
    parser.add_argument("--planned", action="store_true", help="cost-report: from the variables, without AWS")
    parser.add_argument("--prices", type=Path, default=INFRASTRUCTURE / "prices.yaml", help="price file")
    return parser


def _cluster(
    arguments: argparse.Namespace, contract: dict[str, Any], described: dict[str, Any] | None = None
) -> Cluster:
    name = f"llm-{arguments.environment}"
    running = Running(boto3.Session(region_name=_region(arguments)), contract["tags"])
    return Cluster(
        environment=arguments.environment,
        folder=ROOT / ".run" / "cluster",
        terraform=Terraform(
            INFRASTRUCTURE / "environments",
            arguments.environment,
            ROOT / ".run" / "terraform" / arguments.environment,
            arguments.region,
        ),
        name=described["arn"] if described else f"{name} in {_region(arguments)}",
        kubernetes=(lambda: _kubectl(contract, described)) if described else None,
        protected=bool(described and described.get("deletionProtection")),
        load_balancers=lambda: running.load_balancers(name),
        with_content=running.with_content,
        say=_say,
        confirm=(lambda question: True) if arguments.yes else _ask,
        wait_seconds=arguments.wait_seconds,
        poll_seconds=arguments.poll_seconds,
    )


def _region(arguments: argparse.Namespace) -> str:
    return arguments.region or str(variables(INFRASTRUCTURE, arguments.environment)["region"])


def _described(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return EKS's description of the environment's cluster, None if it does not exist."""
    client = boto3.client("eks", region_name=_region(arguments))
    try:
        described: dict[str, Any] = client.describe_cluster(name=f"llm-{arguments.environment}")["cluster"]
    except client.exceptions.ResourceNotFoundException:
        return None
    return described


def _up(arguments: argparse.Namespace, contract: dict[str, Any]) -> None:
    _cluster(arguments, contract).up()


def _down(arguments: argparse.Namespace, contract: dict[str, Any]) -> None:
    _cluster(arguments, contract, _described(arguments)).down()


def _night(arguments: argparse.Namespace, contract: dict[str, Any]) -> Night:
    described = _described(arguments)
    if described is None:
        raise Stopped(f"there is no cluster llm-{arguments.environment} in {_region(arguments)}")
    return Night(
        cloud=EksNodeGroups(
            boto3.client("eks", region_name=_region(arguments)),
            f"llm-{arguments.environment}",
            contract["pool_label"],
            contract["tags"]["remembered_size"],
        ),
        kubernetes=_kubectl(contract, described),
        say=_say,
        wait_seconds=arguments.wait_seconds,
        poll_seconds=arguments.poll_seconds,
        dry_run=arguments.dry_run,
    )


def _off(arguments: argparse.Namespace, contract: dict[str, Any]) -> None:
    night = _night(arguments, contract)
    awake = night.cloud.node_groups()
    prices = read_prices(arguments.prices)
    night.off()
    _say(savings(awake, prices))


def _resume(arguments: argparse.Namespace, contract: dict[str, Any]) -> None:
    _night(arguments, contract).resume()


def _cost(arguments: argparse.Namespace, contract: dict[str, Any]) -> None:
    prices = read_prices(arguments.prices)
    if arguments.planned:
        items = planned(INFRASTRUCTURE, arguments.environment)
    else:
        running = Running(boto3.Session(region_name=_region(arguments)), contract["tags"])
        items = running.items(arguments.environment, f"llm-{arguments.environment}")
        if not items:
            _say(f"nothing of {arguments.environment} runs in {_region(arguments)}")
            return
    _say(table(items, prices))


def savings(awake: list[NodeGroup], prices: dict[str, Any]) -> str:
    """Return the savings of a night without these nodes as a sentence that names missing prices."""
    items = [
        Item(group.name, group.instance_type, group.size.desired) for group in awake if group.size.desired
    ]
    if not items:
        return "no node was running, so nothing more is saved"
    saved, unknown = hourly(items, prices)
    nodes = ", ".join(f"{item.count:g} x {item.price}" for item in items)
    least = "at least " if unknown else ""
    text = f"a night of {NIGHT_HOURS} h without {nodes} saves {least}{saved * NIGHT_HOURS:.2f} USD"
    return f"{text}; no price is known for {', '.join(unknown)}" if unknown else text


def _kubectl(contract: dict[str, Any], described: dict[str, Any]) -> Kubectl:
    """Return kubectl on the context of the described cluster, never on the current context.

    Raises:
        WrongCluster: no context points to this cluster.
    """
    context = eks_context(kubeconfig(["kubectl"]), described["arn"], described["endpoint"])
    _say(f"cluster {described['arn']}, kubeconfig context {context}")
    return Kubectl(
        ["kubectl", "--context", context],
        contract["engine_selector"],
        contract["annotations"]["remembered_replicas"],
        contract["gpu_resource"],
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _ask(question: str) -> bool:
    try:
        return input(f"{question} Type yes to confirm: ").strip() == "yes"
    except EOFError:
        print("\nnobody is there to answer; --yes does not ask", file=sys.stderr)
        return False


_COMMANDS = {
    "cluster-up": _up,
    "cluster-down": _down,
    "night-off": _off,
    "resume": _resume,
    "cost-report": _cost,
}


if __name__ == "__main__":
    sys.exit(main())
