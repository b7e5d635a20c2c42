"""Prefix affinity hashes the beginning of a conversation, up to its first answer."""

from typing import Any

from router_service.routing.features import Needs, extract_features


def prefix(*messages: tuple[str, str]) -> str:
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": role, "content": text} for role, text in messages],
    }
    return extract_features(body, "/v1/chat/completions", {}, needs=Needs(prefix=True)).prefix


def test_every_turn_of_a_conversation_has_the_prefix_of_its_first() -> None:
    first = (("system", "Be brief."), ("user", "hi"))
    later = (*first, ("assistant", "Hello."), ("user", "What is a router?"))
    assert (
        prefix(*first) == prefix(*later) == prefix(*later, ("assistant", "A device."), ("user", "And then?"))
    )


def test_other_beginnings_are_other_prefixes() -> None:
    assert prefix(("user", "hi")) != prefix(("user", "hello"))
    assert prefix(("system", "a"), ("user", "hi")) != prefix(("system", "b"), ("user", "hi"))


def test_a_long_shared_beginning_is_one_prefix_whatever_is_asked() -> None:
    system = ("system", "word " * 400)
    assert prefix(system, ("user", "one")) == prefix(system, ("user", "two"))


def test_a_conversation_that_begins_with_an_answer_is_told_from_others_by_it() -> None:
    assert prefix(("assistant", "Ask me."), ("user", "x")) != prefix(("assistant", "Tell me."), ("user", "x"))
