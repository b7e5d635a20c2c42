"""Findings over one folder of Terraform: schema, module inputs, references, pins. Reads no provider."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from terraform_check.provider_schema import Argument, Schema
from terraform_check.source import Block, read_folder

UPSTREAM = Path(__file__).with_name("upstream_modules.json")
_META = {"count", "for_each", "depends_on", "provider", "lifecycle", "providers", "source", "version"}
_META_BLOCKS = {"lifecycle", "dynamic", "provisioner", "connection", "timeouts"}
_REFERENCE = re.compile(r"(?<![\w.\"-])(data\.)?(aws_\w+)\.(\w+)(?:\[[^\]]*\])?\.(\w+)")
_VARIABLE = re.compile(r"(?<![\w.-])var\.(\w+)")
_LOCAL = re.compile(r"(?<![\w.-])local\.(\w+)")
_MODULE = re.compile(r"(?<![\w.-])module\.(\w+)(?:\[[^\]]*\])?\.(\w+)")
_EXACT = re.compile(r"^\d+\.\d+\.\d+$")


def check_folder(folder: Path, schema: Schema) -> list[str]:
    """Return one line per finding, each starting with ``file:line``; empty without findings."""
    blocks = read_folder(folder)
    findings: list[str] = []
    for block in blocks:
        if block.kind in ("resource", "data"):
            findings += _check_typed(block, schema)
        elif block.kind == "module":
            findings += _check_module(block)
    return findings + list(_check_references(blocks, schema))


def wanted_types(folders: list[Path]) -> set[str]:
    """Return the provider types that the folders use, data sources with the prefix ``data.``."""
    return {
        ("data." if block.kind == "data" else "") + block.labels[0]
        for folder in folders
        for block in read_folder(folder)
        if block.kind in ("resource", "data")
    }


def _check_typed(block: Block, schema: Schema) -> list[str]:
    kind = block.labels[0]
    known = (schema.data_sources if block.kind == "data" else schema.resources).get(kind)
    if known is None:
        return [f"{block.where}: {block.kind} type {kind} is not in AWS provider {schema.version}"]
    return list(_check_arguments(block, known, kind))


def _check_arguments(block: Block, known: dict[str, Argument], path: str) -> Iterator[str]:
    given = set(block.attributes)
    for name, attribute in block.attributes.items():
        if name in _META and name not in known:
            continue
        where = block.at(name)
        argument = known.get(name)
        if argument is None:
            yield f"{where}: {path} has no argument {name}"
        elif message := _wrong_type(argument.type, attribute.value):
            yield f"{where}: {path}.{name} {message}"
    for inner in block.blocks:
        name, body = inner.kind, inner
        if name == "dynamic":
            name = inner.labels[0]
            body = next((content for content in inner.blocks if content.kind == "content"), inner)
        elif name in _META_BLOCKS and name not in known:
            continue
        given.add(name)
        argument = known.get(name)
        if argument is None or argument.type != "block":
            yield f"{inner.where}: {path} has no block {name}"
        else:
            yield from _check_arguments(body, argument.block, f"{path}.{name}")
    for name, argument in known.items():
        if argument.required and name not in given:
            yield f"{block.where}: {path} lacks the required {name}"


def _wrong_type(expected: str, value: Any) -> str | None:
    actual = _literal_type(value)
    if actual is None or expected == "any" or actual == expected:
        return None
    if expected == "string" and actual in ("number", "bool"):
        return None  # Terraform converts these without loss
    if expected in ("number", "bool") and actual == "string":
        text = str(value).strip('"')
        fits = text in ("true", "false") if expected == "bool" else bool(re.fullmatch(r"-?\d+(\.\d+)?", text))
        return None if fits else f"must be {expected}, not the string {value}"
    return f"must be {expected}, not {actual}"


def _literal_type(value: Any) -> str | None:
    if isinstance(value, bool) or value in ("true", "false"):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list):
        return "list"
    if isinstance(value, dict):
        return "map"
    if isinstance(value, str) and value.startswith('"'):
        return "string"
    return None


def _check_module(block: Block) -> Iterator[str]:
    source = block.literal("source")
    if source is None:
        yield f"{block.where}: module {block.labels[0]} needs a literal source"
        return
    if source.startswith("."):
        known = module_inputs(block.path.parent / source)
        if not known:
            yield f"{block.at('source')}: no module at {source}"
            return
    else:
        version = block.literal("version")
        if version is None or not _EXACT.match(version):
            yield f"{block.where}: module {block.labels[0]} ({source}) is not pinned to one version, has {version}"
            return
        entry = json.loads(UPSTREAM.read_text()).get(source)
        if entry is None or entry["version"] != version:
            yield f"{block.at('version')}: no inputs on file for {source} {version}"
            return
        known = entry["inputs"]
    for name, attribute in block.attributes.items():
        if name in _META:
            continue
        if name not in known:
            yield f"{block.at(name)}: module {block.labels[0]} ({source}) has no input {name}"
        elif message := _wrong_type(_root_type(known[name]["type"]), attribute.value):
            yield f"{block.at(name)}: module {block.labels[0]} input {name} {message}"
    for name, entry in known.items():
        if entry["required"] and name not in block.attributes:
            yield f"{block.where}: module {block.labels[0]} ({source}) lacks the required input {name}"


def _root_type(declared: str) -> str:
    root = re.sub(r"^\$\{(.*)\}$", r"\1", declared, flags=re.DOTALL).split("(")[0].strip()
    return {"object": "map", "set": "list", "tuple": "list"}.get(root, root)


def module_inputs(folder: Path) -> dict[str, Any]:
    """Return name → type, required of a module's variables."""
    return {
        block.labels[0]: {
            "type": str(block.attributes["type"].value) if "type" in block.attributes else "any",
            "required": "default" not in block.attributes,
        }
        for block in read_folder(folder)
        if block.kind == "variable"
    }


def _outputs_of(block: Block) -> set[str] | None:
    source = block.literal("source") or ""
    if source.startswith("."):
        return {b.labels[0] for b in read_folder(block.path.parent / source) if b.kind == "output"}
    entry = json.loads(UPSTREAM.read_text()).get(source)
    return set(entry["outputs"]) if entry else None


def _check_references(blocks: list[Block], schema: Schema) -> Iterator[str]:
    variables = {b.labels[0] for b in blocks if b.kind == "variable"}
    local_names = {name for b in blocks if b.kind == "locals" for name in b.attributes}
    modules = {b.labels[0]: _outputs_of(b) for b in blocks if b.kind == "module"}
    declared = {
        ("data." if b.kind == "data" else "") + ".".join(b.labels) for b in blocks if len(b.labels) == 2
    }
    for block in blocks:
        for inner in block.walk():
            for attribute in inner.attributes.values():
                where = f"{inner.path}:{attribute.line}"
                text = json.dumps(attribute.value).replace('\\"', '"')
                for name in _VARIABLE.findall(text):
                    if name not in variables:
                        yield f"{where}: var.{name} is not declared"
                for name in _LOCAL.findall(text):
                    if name not in local_names:
                        yield f"{where}: local.{name} is not declared"
                for module, output in _MODULE.findall(text):
                    outputs = modules.get(module, set())
                    if module not in modules:
                        yield f"{where}: module.{module} is not declared"
                    elif outputs is not None and output not in outputs:
                        yield f"{where}: module.{module} has no output {output}"
                for prefix, kind, name, field in _REFERENCE.findall(text):
                    if f"{prefix}{kind}.{name}" not in declared:
                        yield f"{where}: {prefix}{kind}.{name} is not declared"
                    elif field not in schema.attributes.get(f"{prefix}{kind}", {field}):
                        yield f"{where}: {prefix}{kind} has no attribute {field}"


def check_pool_wiring(environment: Path) -> list[str]:
    """Return findings where a node group's labels or taints differ from its pool's in the contract."""
    modules = {block.labels[0]: block for block in read_folder(environment) if block.kind == "module"}
    findings = []
    for module, pool in (("gpu_nodes", "gpu"), ("system_nodes", "system")):
        for name in ("labels", "taints"):
            expected = f"module.conventions.pools.{pool}.{name}"
            value = str(modules[module].attributes[name].value)
            if value != f"${{{expected}}}":
                where = modules[module].at(name)
                findings.append(f"{where}: {name} of module {module} must be {expected}, not {value}")
    return findings
