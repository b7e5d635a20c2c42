"""The resources an environment will run, from its variable files and infrastructure/node-groups.yaml."""

from __future__ import annotations

from pathlib import Path

import yaml

from platform_tools.cluster_lifecycle.bill import Item
from platform_tools.environment_files import defaults, variables

ZONES = 3


def planned(infrastructure: Path, environment: str) -> list[Item]:
    """Return the priced items of an environment with every node group at its desired size."""
    ours = variables(infrastructure, environment)
    pools = yaml.safe_load((infrastructure / "node-groups.yaml").read_text())[environment]
    modules = infrastructure / "modules"
    gateways = {"none": 0, "single": 1, "per_zone": ZONES}[ours["nat_strategy"]]
    endpoints = len(defaults(modules / "network")["interface_endpoints"]) * ours["interface_endpoint_zones"]
    items = [Item("cluster", "eks-cluster", 1)]
    disks = 0.0
    for pool, facts in pools.items():
        nodes = facts["size"]["desired"]
        items.append(Item(f"{pool}-nodes", facts["instance_types"][0], nodes))
        disks += nodes * defaults(modules / f"{pool}-node-group")["disk_gib"]
    return [
        *items,
        Item("nodes", "gp3-gib", disks),
        Item("access", defaults(modules / "access-host")["instance_type"], 1),
        Item("network", "nat-gateway", gateways),
        Item("network", "interface-endpoint", endpoints),
    ]
