"""Ids of stored responses: in paths, in bodies and in the engine's answers. Must not know backends."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from router_service.openai_api.paths import CANCEL, RETRIEVE, InferencePath

PREFIX = "/v1/responses/"
MAX_SEARCHED = 64 * 1024
"""vLLM begins a response with its id. A longer beginning without an id is not searched."""

_PATH = re.compile(r"/v1/responses/(?P<id>[A-Za-z0-9_-]{1,128})(?P<cancel>/cancel)?")
_ID = re.compile(rb'"id":\s?"(resp_[A-Za-z0-9_-]{1,123})"')
"""Quotes inside JSON strings are escaped, so that no text of a client or a model is taken for an id."""


class StoredRequest(NamedTuple):
    """A request about a stored response: its path, the only method, the response's id, and whether it is streamed."""

    path: InferencePath
    method: str
    response_id: str
    target: bytes
    stream: bool


def stored_request(path: str, query: bytes) -> StoredRequest | None:
    """Return what a path asks of a stored response, or None for other paths. Other query parameters are dropped."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    if found["cancel"]:
        return StoredRequest(CANCEL, "POST", found["id"], path.encode("ascii"), stream=False)
    fields = parse_qs(query.decode("latin-1"))
    stream = fields.get("stream", [""])[-1].lower() in ("true", "1")
    target = path.encode("ascii")
    if stream:
        after = fields.get("starting_after", [""])[-1]
        target += b"?stream=true" + (b"&starting_after=" + after.encode() if _is_count(after) else b"")
    return StoredRequest(RETRIEVE, "GET", found["id"], target, stream)


def previous_id(body: Mapping[str, Any]) -> str:
    """Return the id of the response that a request continues, "" if there is none."""
    value = body.get("previous_response_id")
    return value if isinstance(value, str) and 0 < len(value) <= 128 else ""


class ResponseIdReader:
    """Searches the beginning of an engine's answer for the id of the response. ``over``: the search has ended."""

    __slots__ = ("_begun", "over")

    def __init__(self) -> None:
        self._begun = b""
        self.over = False

    def feed(self, data: bytes) -> str:
        """Return the id once it has arrived, else ""."""
        self._begun += data
        found = _ID.search(self._begun)
        self.over = found is not None or len(self._begun) > MAX_SEARCHED
        if self.over:
            self._begun = b""
        return found[1].decode("ascii") if found is not None else ""


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
