"""The AWS provider's schema, read from the bindings in PyPI's cdktn-provider-aws.

The bindings' type description names, for every argument, the provider's own page and anchor
(``…/docs/resources/eks_cluster#role_arn``): the anchor is the Terraform name.
Reading takes seconds, so a small cache stores what the repository needs.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ANCHOR = re.compile(r"/docs/(resources|data-sources)/(\w+)#(\w+)")
_PAGE = re.compile(r"hashicorp/aws/([\d.]+)/docs/(resources|data-sources)/(\w+) ")


class SchemaNotFound(RuntimeError):
    """The package with the schema is not installed; the message names the command that installs it."""


@dataclass
class Argument:
    """One argument: ``type`` is string, number, bool, list, map, any or block."""

    type: str
    required: bool
    block: dict[str, Argument] = field(default_factory=dict)


@dataclass
class Schema:
    version: str
    resources: dict[str, dict[str, Argument]]
    data_sources: dict[str, dict[str, Argument]]
    attributes: dict[str, set[str]]


def load(site_packages: Path, cache: Path, wanted: set[str]) -> Schema:
    """Return the schema of the ``wanted`` types (``aws_x`` and ``data.aws_x``).

    Raises:
        SchemaNotFound: cdktn-provider-aws is not in ``site_packages``.
    """
    bundles = sorted(site_packages.glob("cdktn_provider_aws/_jsii/*.tgz"))
    if not bundles:
        raise SchemaNotFound(
            f"cdktn-provider-aws is not in {site_packages}; install requirements/tools.lock into .venv-tools"
        )
    key = {"bundle": bundles[0].name, "wanted": sorted(wanted)}
    if cache.exists():
        stored = json.loads(cache.read_text())
        if stored["key"] == key:
            return _decode(stored["schema"])
    schema = _extract(bundles[0], wanted)
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps({"key": key, "schema": schema}))
    partial.replace(cache)
    return _decode(schema)


def _extract(bundle: Path, wanted: set[str]) -> dict[str, Any]:
    with tarfile.open(bundle) as archive:
        member = archive.extractfile("package/.jsii")
        assert member is not None
        types: dict[str, Any] = json.load(member)["types"]
    found: dict[str, Any] = {"version": "", "resources": {}, "data_sources": {}, "attributes": {}}
    for name, kind in types.items():
        page = _PAGE.search(kind.get("docs", {}).get("summary", ""))
        config = types.get(f"{name}Config")
        if kind["kind"] != "class" or page is None or config is None:
            continue
        is_data = page.group(2) == "data-sources"
        full = f"data.aws_{page.group(3)}" if is_data else f"aws_{page.group(3)}"
        if full not in wanted:
            continue
        found["version"] = page.group(1)
        group = found["data_sources"] if is_data else found["resources"]
        group[full.removeprefix("data.")] = _arguments(config, types)
        found["attributes"][full] = sorted(
            {_snake(p["name"]) for p in kind["properties"]} | set(_arguments(config, types)) | {"id"}
        )
    return found


def _arguments(interface: dict[str, Any], types: dict[str, Any]) -> dict[str, Any]:
    result = {}
    for prop in interface.get("properties", []):
        docs = prop["docs"]
        anchor = _ANCHOR.search(docs.get("summary", "") + docs.get("remarks", ""))
        if anchor is None:
            continue
        kind, inner = _kind(prop["type"], types)
        result[anchor.group(3)] = {"type": kind, "required": not prop.get("optional", False), "block": inner}
    return result


def _kind(described: dict[str, Any], types: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if "primitive" in described:
        return {"boolean": "bool"}.get(described["primitive"], described["primitive"]), {}
    if "union" in described:
        for choice in described["union"]["types"]:
            if choice.get("fqn") != "cdktn.IResolvable":
                return _kind(choice, types)
    if "collection" in described:
        element = described["collection"]["elementtype"]
        if described["collection"]["kind"] == "map":
            return "map", {}
        kind, inner = _kind(element, types)
        return ("block", inner) if kind == "block" else ("list", {})
    if described.get("fqn") in types:
        return "block", _arguments(types[described["fqn"]], types)
    return "any", {}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda m: "_" + m.group(1).lower(), name).lower()


def _decode(stored: dict[str, Any]) -> Schema:
    def arguments(raw: dict[str, Any]) -> dict[str, Argument]:
        return {
            name: Argument(entry["type"], entry["required"], arguments(entry["block"]))
            for name, entry in raw.items()
        }

    return Schema(
        version=stored["version"],
        resources={name: arguments(raw) for name, raw in stored["resources"].items()},
        data_sources={name: arguments(raw) for name, raw in stored["data_sources"].items()},
        attributes={name: set(names) for name, names in stored["attributes"].items()},
    )
