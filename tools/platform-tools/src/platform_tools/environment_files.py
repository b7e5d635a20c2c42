"""The committed variable files of the environments in infrastructure/environments. Reads only files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hcl2


def environments(infrastructure: Path) -> list[str]:
    """Return the names of the environments: one committed ``.tfvars`` file each."""
    return sorted(
        path.name.removesuffix(".tfvars")
        for path in (infrastructure / "environments").glob("*.tfvars")
        if not path.name.endswith(".local.tfvars")
    )


def variables(infrastructure: Path, environment: str) -> dict[str, Any]:
    """Return the variables of an environment: defaults, then its ``.tfvars``, then its ``.local.tfvars``."""
    folder = infrastructure / "environments"
    found = defaults(folder)
    for path in variable_files(folder, environment):
        with path.open() as file:
            found |= {name: _plain(value) for name, value in hcl2.load(file).items() if name[:2] != "__"}
    return found


def variable_files(folder: Path, environment: str) -> list[Path]:
    """Return the existing variable files of an environment, in order of increasing precedence."""
    names = (f"{environment}.tfvars", f"{environment}.local.tfvars")
    return [folder / name for name in names if (folder / name).exists()]


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


def _plain(value: Any) -> Any:
    """Return a python-hcl2 value without the quotes and marks that python-hcl2 keeps."""
    if isinstance(value, str):
        return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key.strip('"'): _plain(item) for key, item in value.items() if not key.startswith("__")}
    return value
