"""A module's README, generated from its files. Decides nothing."""

from __future__ import annotations

import re
from pathlib import Path

from terraform_check.source import Block, read_folder


def readme(folder: Path) -> str:
    """Return the README of the module in ``folder``: description, dependencies, inputs, outputs."""
    first = (folder / "main.tf").read_text().splitlines()[0].removeprefix("#").strip()
    blocks = read_folder(folder)
    parts = [f"# {folder.name}", "", first, ""]
    if used := [_used(block) for block in blocks if block.kind == "module"]:
        parts += ["Uses " + ", ".join(used) + ".", ""]
    if resources := sorted({block.labels[0] for block in blocks if block.kind == "resource"}):
        parts += ["Resources: " + ", ".join(f"`{name}`" for name in resources) + ".", ""]
    variables = [block for block in blocks if block.kind == "variable"]
    if variables:
        parts += ["| input | default | meaning |", "|---|---|---|"]
        parts += [
            f"| `{block.labels[0]}` | {_default(block)} | {_description(block)} |" for block in variables
        ]
        parts.append("")
    outputs = [block for block in blocks if block.kind == "output"]
    if outputs:
        parts += ["| output | meaning |", "|---|---|"]
        parts += [f"| `{block.labels[0]}` | {_description(block)} |" for block in outputs]
        parts.append("")
    parts.append("Written by `make generate` from the module's files.")
    return "\n".join(parts) + "\n"


def _used(block: Block) -> str:
    source, version = block.literal("source") or "", block.literal("version")
    if source.startswith("../"):
        name = source.removeprefix("../")
        return f"[{name}](../{name})"
    return f"`{source}` {version}"


def _description(block: Block) -> str:
    text = block.literal("description") or ""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _default(block: Block) -> str:
    attribute = block.attributes.get("default")
    if attribute is None:
        return "required"
    value = attribute.value
    if isinstance(value, str | int | float | bool) or value is None:
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        return f"`{'null' if value is None else shown}`"
    return "see variables.tf"
