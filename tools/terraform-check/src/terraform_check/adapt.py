"""Adapts a working copy to a provider older than our code requires, and lists every change.

Removes what the older provider's schema lacks, and replaces missing small providers (tls, time, null,
cloudinit) by Terraform's built-in `terraform_data`. Never changes the repository.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hcl2

SMALL_PROVIDERS = ("tls", "time", "null", "cloudinit")
_KEPT = {"count", "for_each", "depends_on", "provider", "lifecycle", "dynamic", "timeouts", "provisioner"}


def adapt(into: Path, schema: dict[str, Any], missing: set[str]) -> list[str]:
    """Adapt every ``.tf`` file below ``into`` and return one line per kind of change with its places.

    ``schema`` is the AWS provider's part of `terraform providers schema -json`; ``missing`` names the small
    providers without a binary.
    """
    changes: dict[str, list[str]] = {}

    def note(change: str, path: Path, line: int) -> None:
        changes.setdefault(change, []).append(f"{path.relative_to(into)}:{line}")

    for path in sorted(into.rglob("*.tf")):
        text = path.read_text()
        text = _drop_unknown(path, text, schema, note)
        text = _versions(path, text, missing, note)
        text = _small_providers(path, text, missing, note)
        if path.read_text() != text:
            path.write_text(text)
    return [f"{change}: {', '.join(places)}" for change, places in sorted(changes.items())]


Note = Callable[[str, Path, int], None]


def _drop_unknown(path: Path, text: str, schema: dict[str, Any], note: Note) -> str:
    """Remove arguments and blocks of AWS resources and data sources that the schema lacks."""
    lines = text.splitlines(keepends=True)
    gone: set[int] = set()
    for block in _children(hcl2.parses(text).body, "BlockRule"):
        labels = [label.serialize().strip('"') for label in block.labels]
        if labels[0] not in ("resource", "data") or not labels[1].startswith("aws_"):
            if labels[0] == "terraform":
                for inner in _children(block.body, "BlockRule"):
                    if inner.labels[0].serialize() == "provider_meta":
                        gone |= set(range(inner._meta.line, inner._meta.end_line + 1))
                        note("provider_meta dropped", path, inner._meta.line)
            continue
        kinds = schema["resource_schemas" if labels[0] == "resource" else "data_source_schemas"]
        if labels[1] not in kinds:
            continue  # if our code reaches it, validate reports it
        for name, first, last in _unknown(block.body, kinds[labels[1]]["block"]):
            gone |= set(range(first, last + 1))
            note(f"{labels[0]} {labels[1]}: {name} dropped", path, first)
    kept = "".join(line for number, line in enumerate(lines, 1) if number not in gone)
    return _references(path, kept, schema["resource_schemas"], note)


_REGION = re.compile(r"(data\.aws_region\.\w+(?:\[0\])?)\.region\b")
_REFERENCE = re.compile(r"(?<![\w.])(aws_\w+)\.\w+(?:\[[^\]]*\])?\.(\w+)(?:\[[^\]]*\]|\.\w+)*")


def _references(path: Path, text: str, resources: dict[str, Any], note: Note) -> str:
    """Replace references to attributes that the schema lacks by null."""

    def region(found: re.Match[str]) -> str:
        note("data.aws_region: region read as name", path, text[: found.start()].count("\n") + 1)
        return f"{found[1]}.name"

    def attribute(found: re.Match[str]) -> str:
        block = resources.get(found[1], {}).get("block")
        if (
            block is None
            or found[2] in block.get("attributes", {})
            or found[2] in block.get("block_types", {})
        ):
            return found[0]
        note(f"{found[1]}: {found[2]} read as null", path, text[: found.start()].count("\n") + 1)
        return "null"

    return _REFERENCE.sub(attribute, _REGION.sub(region, text))


def _unknown(body: Any, known: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield name, first and last line of each element that ``known`` lacks."""
    attributes, blocks = known.get("attributes", {}), known.get("block_types", {})
    for attribute in _children(body, "AttributeRule"):
        ((name, _),) = attribute.serialize().items()
        if name not in attributes and name not in blocks and name not in _KEPT:
            yield name, attribute._meta.line, attribute._meta.end_line
    for block in _children(body, "BlockRule"):
        labels = [label.serialize().strip('"') for label in block.labels]
        name = labels[1] if labels[0] == "dynamic" else labels[0]
        if name in _KEPT:
            continue
        if name not in blocks and name not in attributes:
            yield name, block._meta.line, block._meta.end_line
        elif name not in blocks:
            continue  # an attribute that may be written as a block
        elif labels[0] == "dynamic":
            for content in _children(block.body, "BlockRule"):
                yield from (
                    (f"{name}.{inner}", a, b) for inner, a, b in _unknown(content.body, blocks[name]["block"])
                )
        else:
            yield from (
                (f"{name}.{inner}", a, b) for inner, a, b in _unknown(block.body, blocks[name]["block"])
            )


def _children(body: Any, kind: str) -> list[Any]:
    return [child for child in body.children if type(child).__name__ == kind]


def _versions(path: Path, text: str, missing: set[str], note: Note) -> str:
    """Remove the AWS provider's version bounds and the requirements on missing providers."""
    found = re.search(r'(source\s*=\s*"hashicorp/aws"\s*\n\s*version\s*=\s*)"([^"]*)"', text)
    if found:
        note("AWS provider constraint lifted", path, text[: found.start(2)].count("\n") + 1)
        text = text[: found.start(2)] + ">= 0" + text[found.end(2) :]
    for name in missing:
        requirement = re.search(rf'\n *{name} = \{{\n *source *= "hashicorp/{name}"[^}}]*\}}', text)
        if requirement:
            note(f"provider {name} no longer required", path, text[: requirement.start()].count("\n") + 2)
            text = text[: requirement.start()] + text[requirement.end() :]
    return text


_STAND_INS = {
    "time": [
        (r'resource "time_sleep" "(\w+)"', r'resource "terraform_data" "\1_sleep"'),
        (r"\n *create_duration *= [^\n]*", ""),
        (r"\n( *)triggers = \{", r"\n\1input = {"),
        (r"time_sleep\.(\w+)(\[0\])?\.triggers", r"terraform_data.\1_sleep\2.output"),
    ],
    "null": [(r'resource "null_resource" "(\w+)"', r'resource "terraform_data" "\1"')],
    "tls": [
        (
            r'data "tls_certificate" "(\w+)" \{(.*?\n  )url = ',
            r'resource "terraform_data" "\1_certificate" {\2input = ',
        ),
        (
            r"data\.tls_certificate\.(\w+)\[0\]\.certificates\[0\]\.sha1_fingerprint",
            r"terraform_data.\1_certificate[0].output",
        ),
    ],
    "cloudinit": [
        (r'data "cloudinit_config" "(\w+)" \{', r'resource "terraform_data" "\1" {'),
        (r"\n *base64_encode *= true\n *gzip *= false\n *boundary *= [^\n]*", ""),
        (r"\n  part \{\n[^}]*\n  \}", "\n  input = base64encode(var.pre_bootstrap_user_data)"),
        (
            r'\n  dynamic "part" \{.*?\n  \}',
            "\n  input = base64encode(jsonencode(local.nodeadm_cloudinit))",
        ),
        (r"data\.cloudinit_config\.(\w+)\[0\]\.rendered", r"terraform_data.\1[0].output"),
    ],
}
"""Per small provider: pattern and replacement that put ``terraform_data`` in its place."""


def _small_providers(path: Path, text: str, missing: set[str], note: Note) -> str:
    for name in sorted(missing):
        if not re.search(rf"\b({name}_\w+|null_resource)\b", text) or f"{name}_" not in text:
            continue
        before = text
        for pattern, replacement in _STAND_INS[name]:
            text = re.sub(pattern, replacement, text, flags=re.DOTALL if ".*?" in pattern else 0)
        if text != before:
            note(f"provider {name} replaced by terraform_data", path, 1)
    return text
