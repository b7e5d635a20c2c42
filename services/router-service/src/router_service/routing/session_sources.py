"""Finds the session's name in a request: headers first, then body fields. Stores no id."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_FIELD_CHARS = 1024
"""A longer text in a body field is not a session id."""


@dataclass(frozen=True, slots=True)
class SessionSources:
    """Names of headers (lower case) and paths of body fields, each in the order in which they are read."""

    headers: tuple[str, ...] = ()
    fields: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, sources: list[str]) -> "SessionSources":
        """Compile ``header:NAME`` and ``body:FIELD`` (``body:FIELD.FIELD`` inside an object)."""
        return cls(
            tuple(s.removeprefix("header:") for s in sources if s.startswith("header:")),
            tuple(tuple(s.removeprefix("body:").split(".")) for s in sources if s.startswith("body:")),
        )

    def in_body(self, body: Mapping[str, Any]) -> tuple[str, str]:
        """Return the session's id and its source; two empty texts if no field names a session."""
        for field in self.fields:
            value: Any = body
            for key in field:
                value = value.get(key) if isinstance(value, dict) else None
            if type(value) is str and 0 < len(value) <= MAX_FIELD_CHARS:
                return value, "body:" + ".".join(field)
        return "", ""
