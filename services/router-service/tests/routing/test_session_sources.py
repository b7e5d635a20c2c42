"""A session is named by the first source that has one: headers before body fields, and the record says which."""

from typing import Any

import pytest

from router_service.config.model import Affinity
from router_service.pipeline.headers import session_of
from router_service.routing.features import Sender, extract_features
from router_service.routing.session_sources import MAX_FIELD_CHARS, SessionSources

SOURCES = SessionSources.of(
    ["header:x-session-id", "header:x-agent", "body:prompt_cache_key", "body:metadata.user_id", "body:user"]
)


def found(headers: dict[bytes, bytes], body: dict[str, Any]) -> tuple[str, str]:
    session_id, source = session_of(headers, SOURCES.headers)
    features = extract_features(
        body,
        "/v1/chat/completions",
        {},
        Sender("c", session_id=session_id, session_source=source),
        sources=SOURCES,
    )
    return features.session, features.session_source


@pytest.mark.parametrize(
    ("headers", "body", "source"),
    [
        ({}, {}, ""),
        ({b"x-session-id": b"1"}, {"prompt_cache_key": "2"}, "header:x-session-id"),
        ({b"x-agent": b"1"}, {"user": "2"}, "header:x-agent"),
        ({b"x-agent": b"1", b"x-session-id": b"2"}, {}, "header:x-session-id"),
        ({b"x-session-id": b"\x01"}, {"user": "2"}, "body:user"),
        ({}, {"user": "u", "prompt_cache_key": "k"}, "body:prompt_cache_key"),
        ({}, {"metadata": {"user_id": "u"}}, "body:metadata.user_id"),
        ({}, {"metadata": "u", "prompt_cache_key": 5, "user": ""}, ""),
        ({}, {"user": "u" * (MAX_FIELD_CHARS + 1)}, ""),
    ],
)
def test_the_first_source_that_names_a_session_is_used(
    headers: dict[bytes, bytes], body: dict[str, Any], source: str
) -> None:
    session, used = found(headers, body)
    assert used == source
    assert bool(session) is bool(source)


def test_one_id_is_one_session_whatever_named_it_and_a_session_per_client() -> None:
    assert found({b"x-agent": b"1"}, {})[0] == found({}, {"user": "1"})[0]
    other = extract_features({"user": "1"}, "/v1/chat/completions", {}, Sender("d"), sources=SOURCES)
    assert other.session != found({}, {"user": "1"})[0]


@pytest.mark.parametrize(
    ("agent", "header"),
    [("Claude Code", b"x-claude-code-session-id"), ("Codex", b"session-id"), ("Codex before", b"session_id")],
)
def test_the_agents_own_headers_name_a_session_by_default(agent: str, header: bytes) -> None:
    sources = SessionSources.of(Affinity.model_validate({}).sources)
    assert session_of({header: b"1"}, sources.headers) == ("1", f"header:{header.decode()}"), agent


def test_the_default_sources_are_of_the_known_form() -> None:
    assert Affinity.model_validate({}).sources
    for wrong in ("x-session-id", "header:X-A", "body:a.b.c.d.e", "body:"):
        with pytest.raises(ValueError, match="sources"):
            Affinity.model_validate({"sources": [wrong]})
