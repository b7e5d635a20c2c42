"""Checks a rule's `rollout`, and reads the weights file. Works on unchecked data, so that one mistake hides no other."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from platform_contracts.yaml_document import Document, Place, read
from router_service.config.rollout_model import Objectives
from router_service.config.unchecked import at, mapping, must_be_pool


def weights_document(main: Document) -> Document | None:
    """Read the weights file that the configuration names: None if it names none, no data if the file does not exist."""
    name = at(main.data, "routing", "weights_file")
    if not isinstance(name, str):
        return None
    path = main.path.parent / name
    if path.is_file():
        return read(path)
    if not path.parent.is_dir():
        main.problem(
            ("routing", "weights_file"),
            f'"{name}": its folder does not exist; create the folder, not the file',
        )
    return Document(path)


def check_rollout(document: Document, rule: Mapping[str, Any], place: Place, main: Document) -> None:
    """Check references, steps and objectives of the rule at ``place``."""
    if "rollout" not in rule:
        return
    section = mapping(rule["rollout"])
    here = (*place, "rollout")
    must_be_pool(document, (*here, "to"), mapping(at(main.data, "pools")))
    old = rule.get("route_to")
    if isinstance(old, list):
        document.problem(here, "needs a route_to with one pool, the old one; write route_to: POOL")
    elif old is not None and old == section.get("to"):
        document.problem((*here, "to"), f'"{old}" is the old pool (route_to); name the new one')
    if not any(mapping(section.get("objectives")).get(name) is not None for name in Objectives.model_fields):
        document.problem(
            (*here, "objectives"),
            "names no objective, so nothing would stop a worse pool; set at least one of "
            + ", ".join(Objectives.model_fields),
        )
    steps = section.get("steps")
    numbers = [one for one in steps if isinstance(one, int | float)] if isinstance(steps, list) else []
    for index, (before, after) in enumerate(itertools.pairwise(numbers)):
        if after <= before:
            document.problem(
                (*here, "steps", index + 1),
                f"{after:g} does not exceed the step before, {before:g}; sort the steps",
            )
    if not isinstance(at(main.data, "routing", "weights_file"), str):
        document.problem(
            here,
            f"needs a weights file, in which the controller sets the share: add routing.weights_file to {Path(main.path)}",
        )
