"""The features of a request that rules and policies read. Stores no text unless a rule needs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from router_service.routing.client_text import bounded_model
from router_service.routing.hashing import digest
from router_service.routing.prompt_fields import message_count, offers_tools, read_prompt, token_limit
from router_service.routing.prompt_reader import PromptReader
from router_service.routing.session_sources import SessionSources

NO_SOURCES = SessionSources()

ServiceTier = Literal["auto", "default", "flex", "scale", "priority"]
"""Values of a request's ``service_tier`` in OpenAI's API. Other values count as absent."""

SERVICE_TIERS = frozenset(get_args(ServiceTier))


class Sender(NamedTuple):
    """The sender of a request: client id, request id and session from its headers."""

    client_id: str = ""
    request_id: str = ""
    session_id: str = ""
    session_source: str = ""


NOBODY = Sender()


@dataclass(frozen=True, slots=True)
class Needs:
    """The texts that the rules and policies in use read; no other text is stored."""

    user_text: bool = False
    prefix: bool = False


@dataclass(slots=True)
class Features:
    """The features of one request that rules read.

    ``service_tier`` is one of OpenAI's values, or "".
    ``prompt_chars`` counts code points of all text that the engine tokenizes, tools and tool calls included (four per
    token id). ``user_text`` is the text of user messages; it is present only if a rule needs it and is never
    recorded. ``truths`` has the results of conditions on unrecorded data, by condition hash. In a replayed request
    ``user_text`` and ``headers`` are None, and ``truths`` is that of its record.
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
    session_source: str = ""
    service_tier: str = ""
    prefix: str = ""
    headers: Mapping[str, str] | None = None
    user_text: str | None = None
    truths: dict[str, bool] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """The features that a decision record keeps: numbers, names and hashes, no text."""
        fields: dict[str, Any] = {
            "prompt_chars": self.prompt_chars,
            "max_tokens": self.max_tokens,
            "messages": self.messages,
            "has_tools": self.has_tools,
            "has_images": self.has_images,
            "session": self.session,
            "prefix": self.prefix,
        }
        if self.service_tier:
            fields["service_tier"] = self.service_tier
        return fields


def session_key(client_id: str, session_id: str) -> str:
    """Return the digest that stands for a client's session in records and stores; "" for none."""
    return digest("session", client_id, session_id) if session_id else ""


def extract_features(
    body: Mapping[str, Any],
    path: str,
    headers: Mapping[str, str],
    sender: Sender = NOBODY,
    *,
    sources: SessionSources = NO_SOURCES,
    needs: Needs = Needs(),
) -> Features:
    """Extract the features of a request body of any inference path.

    ``headers`` has lower-case names. ``sources`` are read if ``sender`` has no session. Values of unexpected types
    count as absent.

    Raises:
        Excessive: too many items, or nested too deeply.
    """
    client_id, request_id, session_id, session_source = sender
    if not session_id and sources.fields:
        session_id, session_source = sources.in_body(body)
    model, tier = body.get("model"), body.get("service_tier")
    reader = PromptReader(user_text=needs.user_text, prefix=needs.prefix)
    read_prompt(path, body, reader)
    features = Features(
        path=path,
        model=bounded_model(model) if isinstance(model, str) else "",
        stream=body.get("stream") is True,
        max_tokens=token_limit(path, body),
        prompt_chars=reader.chars,
        messages=message_count(path, body),
        has_tools=offers_tools(path, body),
        has_images=reader.images,
        client_id=client_id,
        request_id=request_id,
        session=session_key(client_id, session_id),
        session_source=session_source,
        service_tier=tier if isinstance(tier, str) and tier in SERVICE_TIERS else "",
        headers=headers,
    )
    if needs.user_text:
        features.user_text = "\n".join(reader.user)
    if needs.prefix:
        features.prefix = reader.prefix(features.model)
    return features
