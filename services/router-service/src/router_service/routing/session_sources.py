"""Finds the session's name in a request: headers first, then body fields. Stores no id."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_FIELD_CHARS = 1024
"""A longer text in a body field is not a session id."""


@dataclass(frozen=True, slots=True)
class SessionSources:
    """Names of headers (lower case, as in a raw request) and paths of body fields, each in the order in which they are read.

    ``outer`` are the first keys of all paths: most bodies have none of them.
    """

    headers: tuple[bytes, ...] = ()
    fields: tuple[tuple[str, ...], ...] = ()
    outer: frozenset[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "outer", frozenset(path[0] for path in self.fields))

    @classmethod
    def of(cls, sources: list[str]) -> "SessionSources":
        """Compile ``header:NAME`` and ``body:FIELD`` (``body:FIELD.FIELD`` inside an object)."""
        return cls(
            tuple(s.removeprefix("header:").encode("ascii") for s in sources if s.startswith("header:")),
            tuple(tuple(s.removeprefix("body:").split(".")) for s in sources if s.startswith("body:")),
        )

    def in_body(self, body: Mapping[str, Any]) -> tuple[str, str]:
        """Return the session's id and its source; two empty texts if no field names a session."""
        if self.outer.isdisjoint(body):
            return "", ""
        for path in self.fields:
            value: Any = body
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if type(value) is str and 0 < len(value) <= MAX_FIELD_CHARS:
                return value, "body:" + ".".join(path)
        return "", ""
