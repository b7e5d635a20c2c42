"""Conditions on a large text are tested outside of the event loop, and only once."""

import threading

import orjson
import pytest

from harness.fake_upstream import Script
from harness.scripted_request import DONE, ROLE, STREAM, TOKEN, play
from router_service.openai_api.large_body import LARGE_BYTES
from router_service.routing.conditions import registry
from router_service.routing.conditions.registry import Condition, Kind, make
from router_service.routing.features import Features
from router_service.routing.prompt_reader import PromptReader, as_json
from router_service.routing.rules import Group, Rule, Target

WHOLE = Script(200, STREAM, (ROLE, TOKEN, DONE))


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Register a condition on texts that never holds; return the threads that tested it."""
    threads: list[int] = []

    def build(value: object) -> registry.Test:
        def test(features: Features) -> bool:
            assert features.user_text
            threads.append(threading.get_ident())
            return False

        return test

    kind = Kind("seen", "text", "seen: x", "", build, unrecorded=True, needs_user_text=True)
    monkeypatch.setitem(registry._KINDS, "seen", kind)
    return threads


def rule(condition: Condition) -> Rule:
    return Rule("r", Group("all", (condition,)), (Target("p"),))


@pytest.mark.parametrize(("size", "in_loop"), [(100, True), (2 * LARGE_BYTES, False)])
async def test_a_large_text_is_searched_in_another_thread(
    searched: list[int], size: int, in_loop: bool
) -> None:
    played = await play(WHOLE, content="w" * size, rules=(rule(make("seen", "x")),))
    assert played.client.ends == ["finish"]
    assert [thread == threading.get_ident() for thread in searched] == [in_loop]


@pytest.mark.parametrize("text", ["", "w " * LARGE_BYTES, "😀 " * LARGE_BYTES])
@pytest.mark.parametrize(
    ("word", "found"), [("Stack \n TRACE", True), ("stacktrace", False), ("xstack trace", False)]
)
def test_a_keyword_is_found_in_short_and_long_texts(text: str, word: str, found: bool) -> None:
    condition = make("any_keywords", ["python", "stack trace"])
    assert condition.test(Features(user_text=f"{text} {word}, {text}", headers={})) is found


@pytest.mark.parametrize("text", ["word ", "é", "中", "😀"])
def test_only_the_beginning_of_large_tools_is_decoded_and_all_of_it_counts(text: str) -> None:
    tools = [{"name": "f", "description": text * 200_000}]
    written = orjson.dumps(tools)
    beginning, rest = as_json(tools)
    assert len(beginning) <= LARGE_BYTES
    assert written.decode().startswith(beginning)
    assert 0 <= len(written) - len(beginning.encode()) - rest < 4
    reader = PromptReader(user_text=False, prefix=True)
    reader.structure(tools)
    reader.json(tools, "assistant")
    assert reader.chars == 2 * (len(beginning) + rest)
