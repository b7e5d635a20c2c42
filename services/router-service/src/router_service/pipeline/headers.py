"""Which headers cross the router and which end here; reads no body."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

RawHeaders = list[tuple[bytes, bytes]]

T = TypeVar("T")

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_ENDS_HERE = _HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"accept-encoding",  # an encoded stream could not be read for its end and its usage
    b"authorization",  # the edge has judged it; no key reaches an engine or its log
    b"x-api-key",
    b"cookie",
    b"x-request-id",
    b"traceparent",
    b"x-edge-start",
    b"x-client-id",
    b"x-session-id",
}

_NOT_FOR_THE_CLIENT = _HOP_BY_HOP | {
    b"content-length",
    b"date",
    b"server",
    b"x-request-id",
    b"alt-svc",
}

_SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_UNSAFE_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class HeaderView(Mapping[str, str]):
    """Raw headers as a mapping of texts, decoded only when asked for one. The last value wins."""

    __slots__ = ("_raw",)

    def __init__(self, raw: RawHeaders) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def get(self, name: str, default: T | None = None) -> str | T | None:  # type: ignore[override]
        """The inherited one raises and catches for every header that is not there, as most that rules ask for."""
        wanted = name.encode("latin-1", "replace")
        for known, value in reversed(self._raw):
            if known == wanted:
                return value.decode("latin-1")
        return default

    def __iter__(self) -> Iterator[str]:
        return iter({name.decode("latin-1"): None for name, _ in self._raw})

    def __len__(self) -> int:
        return len(self._raw)


def request_id(value: bytes | None) -> str:
    """The caller's request id when it is safe to repeat everywhere, else a new one."""
    if value is not None and _SAFE_ID.fullmatch(value):
        return value.decode("ascii")
    return os.urandom(16).hex()


def safe_name(value: bytes | None) -> str:
    """A client's or session's name as text; empty when it has control characters or is over 128 bytes."""
    if not value or len(value) > 128 or _UNSAFE_VALUE.search(value):
        return ""
    return value.decode("latin-1")


def forwarded(raw: RawHeaders) -> bytes:
    """The headers for the engine, as bytes with their line ends; ids and length are added per attempt."""
    ends_here = _ENDS_HERE
    for name, value in raw:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            ends_here = ends_here | {part.strip().lower() for part in value.split(b",")}
    parts = []
    for name, value in raw:
        if name not in ends_here and not name.startswith((b"x-route-", b"x-envoy-", b"x-forwarded-")):
            parts.append(b"%b: %b\r\n" % (name, value))
    return b"".join(parts)


def returned(raw: RawHeaders) -> RawHeaders:
    """The engine's headers that are for the client."""
    ends_here = _NOT_FOR_THE_CLIENT
    for name, value in raw:
        if name == b"connection":
            ends_here = ends_here | {part.strip().lower() for part in value.split(b",")}
    return [
        (name, value)
        for name, value in raw
        if name not in ends_here and not name.startswith(b"x-route-") and not _UNSAFE_VALUE.search(value)
    ]


def first(raw: RawHeaders, wanted: bytes) -> bytes | None:
    """The first value of a header (lower-case name), or None."""
    for name, value in raw:
        if name == wanted:
            return value
    return None
