"""Counts the text of one prompt and stores what rules and prefix affinity need. Must not know paths or fields.

A request may have millions of items: lists are bounded here, and a list of token ids is counted by its length.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from router_service.routing.hashing import digest

PREFIX_CHARS = 1024
"""Maximum number of code points at the prompt's beginning that prefix affinity hashes: about 16 of vLLM's 16-token
blocks. The beginning ends before the first assistant message.
"""

MAX_PROMPTS = 2048
"""Maximum number of prompts in one request."""

MAX_PARTS = 10_000
"""Maximum number of messages, content parts, tool calls and documents in one request, all together."""

CHARS_PER_TOKEN_ID = 4

_MAX_JSON_BYTES = 256 * 1024
"""Maximum bytes of one JSON value that are read: decoding and hashing 10 MiB takes 20 ms. The rest counts by its bytes."""


class Excessive(ValueError):
    """The prompt has more items, or deeper nesting, than any real request; the message is for the client."""


class PromptReader:
    """Reads the texts of one prompt in their order.

    ``chars`` are code points (:data:`CHARS_PER_TOKEN_ID` per token id), ``user`` the texts of user messages,
    ``images`` whether a part has an image. Texts are stored only if ``user_text`` or ``prefix`` requests them.
    """

    __slots__ = (
        "_lead",
        "_lead_chars",
        "_parts",
        "_prefix",
        "_schema",
        "_user_text",
        "chars",
        "images",
        "user",
    )

    def __init__(self, *, user_text: bool, prefix: bool) -> None:
        self._user_text = user_text
        self._prefix = prefix
        self._lead: list[str] = []
        self._lead_chars = 0 if prefix else PREFIX_CHARS
        self._schema = ""
        self._parts = 0
        self.chars = 0
        self.images = False
        self.user: list[str] = []

    def text(self, value: Any, role: str) -> None:
        """Read one text; ignore other values. Text conditions see only text with the role ``user``."""
        if type(value) is not str:
            return
        self.chars += len(value)
        if role == "user" and self._user_text:
            self.user.append(value)
        if self._lead_chars < PREFIX_CHARS:
            if role == "assistant" and self._lead:
                # The beginning of a conversation ends before its first assistant message. With later texts its prefix
                # would change at every turn, and each turn would go to another, cold backend.
                self._lead_chars = PREFIX_CHARS
                return
            self._lead.append(f"\x01{role}\x02{value[:PREFIX_CHARS]}")
            self._lead_chars += len(self._lead[-1])

    def structure(self, value: Any) -> None:
        """Read JSON that a chat template writes before the messages (tools, documents, its arguments).

        It counts as its compact JSON, in code points up to :data:`_MAX_JSON_BYTES`, in bytes beyond. The prefix has only
        its digest, so that a long one leaves room for the messages.

        Raises:
            Excessive: nested too deeply.
        """
        if not value:
            return
        written, rest = as_json(value)
        self.chars += len(written) + rest
        if self._prefix:
            self._schema = digest("structure", self._schema, written)

    def json(self, value: Any, role: str) -> None:
        """Read JSON inside a message (arguments of a tool call): a text unchanged, other values as compact JSON.

        Raises:
            Excessive: nested too deeply.
        """
        if isinstance(value, str):
            self.text(value, role)
        elif value:
            written, rest = as_json(value)
            self.text(written, role)
            self.chars += rest

    def items(self, value: Any) -> Sequence[Any]:
        """Return the items of a list, no items for other values.

        Raises:
            Excessive: all lists together have more than :data:`MAX_PARTS` items.
        """
        if type(value) is not list:
            return ()
        self._parts += len(value)
        if self._parts > MAX_PARTS:
            raise Excessive(f"the request has over {MAX_PARTS} messages, content parts and documents")
        return value

    def prompts(self, value: Any, role: str = "user") -> int:
        """Read a prompt, a list of prompts, token ids or a list of lists of token ids; return the number of prompts.

        Raises:
            Excessive: over :data:`MAX_PROMPTS` prompts.
        """
        if isinstance(value, str):
            self.text(value, role)
            return 1
        if not isinstance(value, list) or not value:
            return 0
        if type(value[0]) is int:
            self.chars += CHARS_PER_TOKEN_ID * len(value)
            return 1
        if len(value) > MAX_PROMPTS:
            raise Excessive(f"the request has {len(value)} prompts; at most {MAX_PROMPTS} are allowed")
        for prompt in value:
            if isinstance(prompt, list):
                self.chars += CHARS_PER_TOKEN_ID * len(prompt)
            else:
                self.text(prompt, role)
        return len(value)

    def prefix(self, model: str) -> str:
        """Return the digest of the prompt's beginning for ``model``."""
        return digest("prefix", model, self._schema + "".join(self._lead)[:PREFIX_CHARS])


def as_json(value: Any) -> tuple[str, int]:
    """Return compact JSON of at most :data:`_MAX_JSON_BYTES`, and the number of bytes left out.

    Raises:
        Excessive: nested too deeply.
    """
    try:
        written = orjson.dumps(value, default=str)
    except orjson.JSONEncodeError as error:
        raise Excessive(f"the request has JSON that cannot be parsed: {error}") from error
    rest = max(0, len(written) - _MAX_JSON_BYTES)
    return written[:_MAX_JSON_BYTES].decode(errors="ignore" if rest else "strict"), rest
