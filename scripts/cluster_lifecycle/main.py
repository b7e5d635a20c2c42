"""Command line of night-off and resume: builds the adapters, says what will happen, asks nothing else."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import boto3
import yaml

from cluster_lifecycle.eks import EksNodeGroups
from cluster_lifecycle.kubectl import Kubectl
from cluster_lifecycle.night import Night, NotInTime

CONTRACT = Path(__file__).resolve().parents[2] / "infrastructure" / "contract.yaml"


def main() -> int:
    """Exit 0 done, 1 not in time or refused by a service (run again), 2 wrong arguments."""
    parser = argparse.ArgumentParser(prog="night-off / resume", description=__doc__)
    parser.add_argument("command", choices=["night-off", "resume"])
    parser.add_argument("environment", help="dev or prod; the cluster is llm-<environment>")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--wait-seconds", type=float, default=1800.0)
    parser.add_argument("--poll-seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    contract = yaml.safe_load(CONTRACT.read_text())
    night = Night(
        cloud=EksNodeGroups(
            boto3.client("eks", region_name=arguments.region),
            f"llm-{arguments.environment}",
            contract["pool_label"],
            contract["tags"]["remembered_size"],
        ),
        kubernetes=Kubectl(
            ["kubectl"],
            contract["engine_selector"],
            contract["annotations"]["remembered_replicas"],
            contract["gpu_resource"],
        ),
        say=lambda line: print(line, flush=True),
        wait_seconds=arguments.wait_seconds,
        poll_seconds=arguments.poll_seconds,
        dry_run=arguments.dry_run,
    )
    try:
        night.off() if arguments.command == "night-off" else night.resume()
    except (NotInTime, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
