"""The metrics and labels that a PromQL expression uses. Asks no Prometheus."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser

_CHILDREN = ("lhs", "rhs", "expr", "param", "args", "vector_selector")


@dataclass(frozen=True, slots=True)
class Selector:
    """One metric with its matchers: (label, operator and value as written)."""

    metric: str
    matchers: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """Return the selector as PromQL."""
        inside = ",".join(f"{name}{rest}" for name, rest in self.matchers)
        return f"{self.metric}{{{inside}}}" if inside else self.metric


def selectors(expression: str) -> list[Selector]:
    """Return every selector of an expression."""
    return [
        _selector(node) for node in _nodes(promql_parser.parse(expression)) if _is(node, "VectorSelector")
    ]


def grouping_labels(expression: str) -> set[str]:
    """Return the labels that an expression groups or joins by."""
    found: set[str] = set()
    for node in _nodes(promql_parser.parse(expression)):
        modifier = getattr(node, "modifier", None)
        if modifier is None:
            continue
        for holder in (modifier, getattr(modifier, "matching", None)):
            found |= set(getattr(holder, "labels", None) or ())
        joined = getattr(modifier, "group_labels", None) or ()
        found |= set(getattr(joined, "labels", joined))
    return found


def _selector(node: Any) -> Selector:
    operators = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}
    matchers = tuple((one.name, f'{operators[str(one.op)]}"{one.value}"') for one in node.matchers.matchers)
    return Selector(node.name, matchers)


def _nodes(node: Any) -> Iterator[Any]:
    if isinstance(node, list):
        for item in node:
            yield from _nodes(item)
        return
    if node is None or isinstance(node, str | int | float | bool):
        return
    yield node
    for name in _CHILDREN:
        yield from _nodes(getattr(node, name, None))


def _is(node: Any, kind: str) -> bool:
    return type(node).__name__ == kind
