"""What a decision may know of a request. Taken from the body once; keeps no text that is not asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router_service.routing.hashing import digest

PREFIX_CHARS = 1024
"""Most code points of the prompt's beginning that prefix affinity hashes: about 16 of vLLM's 16-token blocks. It
ends before the first answer in it."""

_CHARS_PER_TOKEN_ID = 4


@dataclass(frozen=True, slots=True)
class Needs:
    """What the rules and policies in use look at beyond the numbers; nothing else is extracted."""

    user_text: bool = False
    prefix: bool = False


@dataclass(slots=True)
class Features:
    """One request as rules see it.

    ``prompt_chars`` counts code points of all text parts (four per token id). ``user_text`` is the text
    of user messages, present only while a rule needs it and never recorded: ``truths`` holds what
    conditions on recorded-nowhere data said, by condition hash. A replayed request has ``user_text`` and
    ``headers`` None, and knows only the truths of its record.
    """

    path: str = "/v1/chat/completions"
    model: str = ""
    stream: bool = False
    max_tokens: int | None = None
    prompt_chars: int = 0
    messages: int = 0
    has_tools: bool = False
    has_images: bool = False
    client_id: str = ""
    request_id: str = ""
    session: str = ""
    prefix: str = ""
    headers: Mapping[str, str] | None = None
    user_text: str | None = None
    truths: dict[str, bool] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """The features that a decision record keeps: numbers, names and hashes, no text."""
        return {
            "prompt_chars": self.prompt_chars,
            "max_tokens": self.max_tokens,
            "messages": self.messages,
            "has_tools": self.has_tools,
            "has_images": self.has_images,
            "session": self.session,
            "prefix": self.prefix,
        }


def session_key(client_id: str, session_id: str) -> str:
    """Return what stands for a client's session everywhere; "" for none. The raw id is not kept."""
    return digest("session", client_id, session_id) if session_id else ""


def extract_features(
    body: Mapping[str, Any],
    path: str,
    headers: Mapping[str, str],
    *,
    client_id: str = "",
    request_id: str = "",
    session_id: str = "",
    needs: Needs = Needs(),
) -> Features:
    """Read the features of a request body of any of the inference paths.

    ``headers`` has lower-case names. Values of unexpected types count as absent: judging them is the
    edge's and the engine's business.

    Raises:
        TooDeep: content within content within content.
    """
    model = body.get("model")
    limit = body.get("max_completion_tokens")
    if type(limit) is not int:
        limit = body.get("max_tokens", body.get("max_output_tokens"))
    features = Features(
        path=path,
        model=model if isinstance(model, str) else "",
        stream=body.get("stream") is True,
        max_tokens=limit if type(limit) is int else None,
        has_tools=bool(body.get("tools")),
        client_id=client_id,
        request_id=request_id,
        session=session_key(client_id, session_id),
        headers=headers,
    )
    reader = _Reader(needs)
    messages = body.get("messages")
    if isinstance(messages, list):
        features.messages = len(messages)
        for message in messages:
            if isinstance(message, dict):
                role = message.get("role")
                reader.content(message.get("content"), role == "user", role if isinstance(role, str) else "")
    system = body.get("system")  # Anthropic's messages and instructions of responses stand beside them
    reader.content(system if system is not None else body.get("instructions"), False, "system")
    for key in ("prompt", "input", "query", "documents"):
        value = body.get(key)
        if value is not None:
            reader.content(value, True, key)
    features.prompt_chars = reader.chars
    features.has_images = reader.images
    if needs.user_text:
        features.user_text = "\n".join(reader.user)
    if needs.prefix:
        features.prefix = digest("prefix", features.model, "".join(reader.lead)[:PREFIX_CHARS])
    return features


class TooDeep(ValueError):
    """Content is nested deeper than any client means it to be."""


MAX_CONTENT_DEPTH = 32


class _Reader:
    """Walks prompt content once, counting code points and keeping only what is needed."""

    __slots__ = ("chars", "depth", "images", "lead", "lead_chars", "needs", "user")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.depth = 0
        self.chars = 0
        self.images = False
        self.user: list[str] = []
        self.lead: list[str] = []
        self.lead_chars = 0

    def content(self, value: Any, is_user: bool, role: str) -> None:
        if isinstance(value, str):
            self._text(value, is_user, role)
        elif isinstance(value, list):
            for part in value:
                if isinstance(part, str):
                    self._text(part, is_user, role)
                elif type(part) is int:
                    self.chars += _CHARS_PER_TOKEN_ID
                elif isinstance(part, list):  # a batch of token-id prompts
                    self.chars += _CHARS_PER_TOKEN_ID * len(part)
                elif isinstance(part, dict):
                    self._part(part, is_user, role)

    def _part(self, part: dict[str, Any], is_user: bool, role: str) -> None:
        text = part.get("text")
        if isinstance(text, str):
            self._text(text, is_user, role)
        elif part.get("type") in ("image_url", "input_image", "image"):
            self.images = True
        elif "content" in part:  # an item of `input` on /v1/responses
            inner = part.get("role")
            self.depth += 1
            if self.depth > MAX_CONTENT_DEPTH:
                raise TooDeep(f"the request's content is nested over {MAX_CONTENT_DEPTH} levels deep")
            self.content(part["content"], inner in (None, "user"), inner if isinstance(inner, str) else role)
            self.depth -= 1

    def _text(self, text: str, is_user: bool, role: str) -> None:
        self.chars += len(text)
        if is_user and self.needs.user_text:
            self.user.append(text)
        if self.needs.prefix and self.lead_chars < PREFIX_CHARS:
            if role == "assistant" and self.lead:
                # A conversation's beginning is what stands before its first answer: with it and what follows
                # the prefix would be another one at each turn, and each turn would start cold elsewhere.
                self.lead_chars = PREFIX_CHARS
                return
            self.lead.append(f"\x01{role}\x02{text[:PREFIX_CHARS]}")
            self.lead_chars += len(self.lead[-1])
