"""What an environment would run, read from its variables: for a bill before anything exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hcl2

from cluster_lifecycle.bill import Item

ZONES = 3


def defaults(folder: Path) -> dict[str, Any]:
    """Return the default of every variable in a folder's ``variables.tf``."""
    with (folder / "variables.tf").open() as file:
        parsed = hcl2.load(file)
    found = {}
    for block in parsed["variable"]:
        for name, body in block.items():
            if "default" in body:
                found[name.strip('"')] = _plain(body["default"])
    return found


def planned(infrastructure: Path, environment: str) -> list[Item]:
    """Items of an environment as its variables stand: every node at its desired size, nothing of the night."""
    ours = defaults(infrastructure / "environments" / environment)
    modules = infrastructure / "modules"
    gateways = {"none": 0, "single": 1, "per_zone": ZONES}[ours["nat_strategy"]]
    endpoints = len(defaults(modules / "network")["interface_endpoints"]) * ours["interface_endpoint_zones"]
    items = [Item("cluster", "eks-cluster", 1)]
    disks = 0.0
    for component, pool, module in (
        ("system-nodes", ours["system_nodes"], "system-node-group"),
        ("gpu-nodes", ours["gpu_nodes"], "gpu-node-group"),
    ):
        nodes = pool["size"]["desired"]
        items.append(Item(component, pool["instance_types"][0], nodes))
        disks += nodes * defaults(modules / module)["disk_gib"]
    return [
        *items,
        Item("nodes", "gp3-gib", disks),
        Item("access", defaults(modules / "access-host")["instance_type"], 1),
        Item("network", "nat-gateway", gateways),
        Item("network", "interface-endpoint", endpoints),
    ]


def _plain(value: Any) -> Any:
    """python-hcl2 keeps the quotes of strings and adds marks of its own to mappings."""
    if isinstance(value, str):
        return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key.strip('"'): _plain(item) for key, item in value.items() if not key.startswith("__")}
    return value
