"""A YAML file with the line and column of every key and value. Must not know what the keys mean."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Place = tuple[str | int, ...]

MAX_DEPTH = 64
"""An alias inside its own anchor is infinitely deep; no configuration is deeper than this."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake: its place (line and column from 1), its key, and the message."""

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}:{self.column}: {key}{self.message}"


@dataclass
class Document:
    """A parsed file: plain data, and the position of each key and value."""

    path: Path
    data: Any = None
    marks: dict[Place, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def problem(self, place: Place, message: str) -> None:
        """Record a mistake at ``place``, or at the nearest enclosing place that the file has."""
        self.problems.append(self._at(place, message))

    def warning(self, place: Place, message: str) -> None:
        """Record what works now and will be a mistake later."""
        self.warnings.append(self._at(place, message))

    def _at(self, place: Place, message: str) -> Problem:
        near = place
        while near and near not in self.marks:
            near = near[:-1]
        line, column = self.marks.get(near, (1, 1))
        return Problem(str(self.path), line, column, key_of(place), message)


def key_of(place: Place) -> str:
    """Return a place in the notation of the docs: ``rules[2].route_to``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def read(path: Path) -> Document:
    """Read a file. If it is not valid YAML, ``problems`` has the mistakes and ``data`` is None."""
    document = Document(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        document.problem((), f"cannot be read: {error.strerror}")
        return document
    except UnicodeDecodeError as error:
        document.problem((), f"is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}")
        return document
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            for place, node in _walk(document, (), root):
                document.marks[place] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if not document.problems:
            document.data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        said = error.problem or "syntax error"
        document.problems.append(Problem(str(path), line, column, "", f"not YAML: {said}"))
    except yaml.YAMLError as error:
        document.problem((), f"not YAML: {error}")
    except RecursionError:
        document.problem((), f"is nested over {MAX_DEPTH} levels deep; no key of it is that deep")
    return document


def _walk(document: Document, place: Place, node: yaml.Node) -> Iterator[tuple[Place, yaml.Node]]:
    if len(place) > MAX_DEPTH:
        raise RecursionError
    yield place, node
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(document, place, node)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            inner = (*place, key)
            if key in seen:
                mark = key_node.start_mark
                document.problems.append(
                    Problem(str(document.path), mark.line + 1, mark.column + 1, key_of(inner), "is repeated")
                )
            seen.add(key)
            yield from _walk(document, inner, value_node)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(document, (*place, index), item)


def _check_scalar(document: Document, place: Place, node: yaml.ScalarNode) -> None:
    """Record a value that does not match its explicit or implicit tag: `2024-99-99`, `!!int abc`."""
    try:
        yaml.SafeLoader("").construct_object(node)
    except yaml.YAMLError:
        pass  # An unknown tag: loading reports it with its position.
    except ValueError as error:
        mark = node.start_mark
        said = f'"{node.value}" is not a valid value of its type: {error}; put a text in quotes'
        document.problems.append(
            Problem(str(document.path), mark.line + 1, mark.column + 1, key_of(place), said)
        )
