"""Terraform files as blocks with file and line. Must not depend on AWS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hcl2

_STRING = re.compile(r'^"(.*)"$', re.DOTALL)


@dataclass
class Attribute:
    """One ``name = value``; ``value`` is python-hcl2's plain form of the expression."""

    name: str
    value: Any
    line: int

    @property
    def is_literal_string(self) -> bool:
        return isinstance(self.value, str) and bool(_STRING.match(self.value)) and "${" not in self.value


@dataclass
class Block:
    """One block. ``text`` is the block's expressions in one string."""

    kind: str
    labels: list[str]
    path: Path
    line: int
    attributes: dict[str, Attribute] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"

    def at(self, attribute: str) -> str:
        return f"{self.path}:{self.attributes[attribute].line}"

    def literal(self, name: str) -> str | None:
        """Return the attribute's text if it is a plain string, else None."""
        attribute = self.attributes.get(name)
        if attribute is None or not attribute.is_literal_string:
            return None
        match = _STRING.match(attribute.value)
        return match.group(1) if match else None

    def walk(self) -> Iterator[Block]:
        yield self
        for block in self.blocks:
            yield from block.walk()


def read_folder(folder: Path) -> list[Block]:
    """Return the top-level blocks of every ``.tf`` file in ``folder``."""
    return [block for path in sorted(folder.glob("*.tf")) for block in read_file(path)]


def read_file(path: Path) -> list[Block]:
    """Return the top-level blocks of one file. Raises python-hcl2's error on bad syntax."""
    tree = hcl2.parses(path.read_text())
    return _body(tree.body, path)[1]


def _body(body: Any, path: Path) -> tuple[dict[str, Attribute], list[Block]]:
    attributes: dict[str, Attribute] = {}
    blocks: list[Block] = []
    for child in body.children:
        kind = type(child).__name__
        if kind == "AttributeRule":
            ((name, value),) = child.serialize().items()
            attributes[name] = Attribute(name, value, child._meta.line)
        elif kind == "BlockRule":
            labels = [_unquote(label.serialize()) for label in child.labels]
            inner_attributes, inner_blocks = _body(child.body, path)
            blocks.append(
                Block(labels[0], labels[1:], path, child._meta.line, inner_attributes, inner_blocks)
            )
    return attributes, blocks


def _unquote(text: str) -> str:
    match = _STRING.match(text)
    return match.group(1) if match else text
