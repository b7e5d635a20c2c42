"""Command line of cluster-up, cluster-down, night-off, resume and cost-report: builds the adapters."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from cluster_lifecycle.bill import BadPrices, Item, hourly, read_prices, table
from cluster_lifecycle.cluster import Cluster, Stopped
from cluster_lifecycle.eks import EksNodeGroups
from cluster_lifecycle.kubectl import Kubectl
from cluster_lifecycle.night import Night, NodeGroup, NotInTime
from cluster_lifecycle.planned import planned
from cluster_lifecycle.running import Running
from cluster_lifecycle.terraform import Terraform, TerraformFailed

ROOT = Path(__file__).resolve().parents[2]
INFRASTRUCTURE = ROOT / "infrastructure"
NIGHT_HOURS = 12


def main(words: list[str] | None = None) -> int:
    """Exit 0 done; 1 stopped, not in time or refused by a service (run again); 2 wrong arguments or prices."""
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
    environments = sorted(path.name for path in (INFRASTRUCTURE / "environments").iterdir())
    parser.add_argument("environment", choices=environments, help="the cluster is llm-<environment>")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--wait-seconds", type=float, default=1800.0)
    parser.add_argument("--poll-seconds", type=float, default=5.0)
    parser.add_argument(
        "--dry-run", action="store_true", help="night-off, resume: only say what would be done"
    )
    parser.add_argument("--yes", action="store_true", help="cluster-up, cluster-down: do not ask")
    parser.add_argument("--planned", action="store_true", help="cost-report: from the variables, without AWS")
    parser.add_argument("--prices", type=Path, default=INFRASTRUCTURE / "prices.yaml", help="price file")
    return parser


def _cluster(arguments: argparse.Namespace, contract: dict[str, Any]) -> Cluster:
    name = f"llm-{arguments.environment}"
    running = Running(boto3.Session(region_name=arguments.region), contract["tags"])
    return Cluster(
        environment=arguments.environment,
        folder=ROOT / ".run" / "cluster",
        terraform=Terraform(INFRASTRUCTURE / "environments" / arguments.environment),
        kubernetes=_kubectl(contract),
        load_balancers=lambda: running.load_balancers(name),
        say=_say,
        confirm=(lambda question: True) if arguments.yes else _ask,
        wait_seconds=arguments.wait_seconds,
        poll_seconds=arguments.poll_seconds,
    )


def _up(arguments: argparse.Namespace, contract: dict[str, Any]) -> None:
    _cluster(arguments, contract).up()


def _down(arguments: argparse.Namespace, contract: dict[str, Any]) -> None:
    _cluster(arguments, contract).down()


def _night(arguments: argparse.Namespace, contract: dict[str, Any]) -> Night:
    return Night(
        cloud=EksNodeGroups(
            boto3.client("eks", region_name=arguments.region),
            f"llm-{arguments.environment}",
            contract["pool_label"],
            contract["tags"]["remembered_size"],
        ),
        kubernetes=_kubectl(contract),
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
        running = Running(boto3.Session(region_name=arguments.region), contract["tags"])
        items = running.items(arguments.environment, f"llm-{arguments.environment}")
        if not items:
            _say(f"nothing of {arguments.environment} runs in {arguments.region}")
            return
    _say(table(items, prices))


def savings(awake: list[NodeGroup], prices: dict[str, Any]) -> str:
    """What a night without these nodes saves, as a sentence that says which prices are missing."""
    items = [
        Item(group.name, group.instance_type, group.size.desired) for group in awake if group.size.desired
    ]
    if not items:
        return "no node was awake, so nothing more is saved"
    saved, unknown = hourly(items, prices)
    nodes = ", ".join(f"{item.count:g} x {item.price}" for item in items)
    least = "at least " if unknown else ""
    text = f"a night of {NIGHT_HOURS} h without {nodes} saves {least}{saved * NIGHT_HOURS:.2f} USD"
    return f"{text}; no price is known for {', '.join(unknown)}" if unknown else text


def _kubectl(contract: dict[str, Any]) -> Kubectl:
    return Kubectl(
        ["kubectl"],
        contract["engine_selector"],
        contract["annotations"]["remembered_replicas"],
        contract["gpu_resource"],
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _ask(question: str) -> bool:
    try:
        return input(f"{question} Only yes will do it: ").strip() == "yes"
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
