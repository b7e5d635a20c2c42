"""Which headers cross the router and which stop here. Does not read bodies."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

RawHeaders = list[tuple[bytes, bytes]]

T = TypeVar("T")

FOR_THE_ENGINE = frozenset(
    {
        *(b"accept", b"content-type", b"user-agent", b"tracestate"),
        *(b"anthropic-version", b"anthropic-beta"),
    }
)
"""Headers that are forwarded from the client to the engine; ids, trace context and length are written for
each attempt. An engine never receives a key. `accept-encoding` is dropped because the router cannot read the
events of an encoded stream.
"""

FOR_THE_CLIENT = frozenset(
    {
        *(b"content-type", b"content-encoding", b"content-disposition", b"content-language"),
        *(b"cache-control", b"retry-after", b"x-accel-buffering", b"x-should-retry", b"openai-processing-ms"),
    }
)
"""Headers that are returned from the engine to the client."""

IDS_AT_ONCE = 64
"""Request ids drawn from the system's random numbers with one system call."""

_NEW_IDS: list[str] = []

_SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_UNSAFE_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class HeaderView(Mapping[str, str]):
    """Headers by name as a mapping of texts. Values are decoded on access."""

    __slots__ = ("_by_name",)

    def __init__(self, by_name: Mapping[bytes, bytes]) -> None:
        self._by_name = by_name

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def get(self, name: str, default: T | None = None) -> str | T | None:  # type: ignore[override]
        """Return the value of ``name``. Overrides `Mapping.get`, which raises and catches an exception for
        each absent header.
        """
        value = self._by_name.get(name.encode("latin-1", "replace"))
        return default if value is None else value.decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return iter([name.decode("latin-1") for name in self._by_name])

    def __len__(self) -> int:
        return len(self._by_name)


def request_id(value: bytes | None) -> str:
    """Return the caller's request id if it is safe to log and forward, else a new one."""
    if value is not None and _SAFE_ID.fullmatch(value):
        return value.decode("ascii")
    while True:
        try:
            return _NEW_IDS.pop()
        except IndexError:  # Pages are answered in threads too, so a test of the length would not do.
            drawn = os.urandom(16 * IDS_AT_ONCE).hex()
            _NEW_IDS.extend(drawn[at : at + 32] for at in range(0, len(drawn), 32))


def safe_name(value: bytes | None) -> str:
    """Return a client's or session's name as text, or "" if it has control characters or more than 128 bytes."""
    if not value or len(value) > 128 or _UNSAFE_VALUE.search(value):
        return ""
    return value.decode("latin-1")


def session_of(by_name: Mapping[bytes, bytes], names: Sequence[bytes]) -> tuple[str, str]:
    """Return the session's id and the header that carried it; two empty texts if none of ``names`` is
    present.
    """
    for name in names:
        value = by_name.get(name)
        if value is not None and (session := safe_name(value)):
            return session, "header:" + name.decode("ascii")
    return "", ""


def forwarded(raw: RawHeaders) -> bytes:
    """Return the headers for the engine as bytes with line ends."""
    allowed = FOR_THE_ENGINE
    lines = []
    for pair in raw:
        if pair[0] in allowed:
            lines.append(b": ".join(pair))
        elif pair[0] == b"connection" and pair[1].lower() not in (b"keep-alive", b"close"):
            return _forwarded_unnamed(raw)
    lines.append(b"")
    return b"\r\n".join(lines)


def _forwarded_unnamed(raw: RawHeaders) -> bytes:
    """Return the headers for the engine without those that ``connection`` names."""
    allowed = FOR_THE_ENGINE
    for name, value in raw:
        if name == b"connection":
            allowed = allowed - {part.strip().lower() for part in value.split(b",")}
    return b"".join([b"%b: %b\r\n" % pair for pair in raw if pair[0] in allowed])


def returned(raw: RawHeaders) -> RawHeaders:
    """Return the engine's headers that are for the client."""
    allowed = FOR_THE_CLIENT
    for name, value in raw:
        if name == b"connection":
            allowed = allowed - {part.strip().lower() for part in value.split(b",")}
    return [pair for pair in raw if pair[0] in allowed and not _UNSAFE_VALUE.search(pair[1])]


def first(raw: RawHeaders, wanted: bytes) -> bytes | None:
    """Return the first value of the header ``wanted`` (lower-case name), or None."""
    for name, value in raw:
        if name == wanted:
            return value
    return None


def token_header(prompt: int, completion: int) -> tuple[bytes, bytes]:
    """Return the header with token counts for the edge's budgets; the edge removes it before the client sees
    it.
    """
    return (b"x-route-tokens", b"prompt=%d,completion=%d" % (prompt, completion))
