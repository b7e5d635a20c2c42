"""Every condition, its borders and its bad values."""

from typing import Any

import pytest

from router_service.routing.conditions import CannotTell, kinds, make
from router_service.routing.features import Features, Needs, Sender, extract_features

ALL = Needs(user_text=True, prefix=True)


def features(**body: Any) -> Features:
    headers = body.pop("headers", {})
    return extract_features(
        body, body.pop("path", "/v1/chat/completions"), headers, Sender("nightly-7"), needs=ALL
    )


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    ("name", "value", "body", "expected"),
    [
        ("model", "llama", {"model": "llama"}, True),
        ("model", "llama", {"model": "llama-3"}, False),
        ("model", ["llama-*", "x"], {"model": "llama-3"}, True),
        ("model", "llama-*", {}, False),
        ("max_tokens_gte", 800, {"max_tokens": 800}, True),
        ("max_tokens_gte", 800, {"max_tokens": 799}, False),
        ("max_tokens_gte", 0, {}, False),
        ("max_tokens_gte", 800, {"max_tokens": 900, "max_completion_tokens": 10}, True),
        ("max_tokens_lte", 64, {"max_tokens": 64}, True),
        ("max_tokens_lte", 64, {}, False),
        ("max_tokens_lte", 64, {"max_tokens": "64"}, False),
        ("prompt_chars_gte", 3, user("abc"), True),
        ("prompt_chars_gte", 3, user("😀😀"), False),
        ("prompt_chars_gte", 8, {"path": "/v1/completions", "prompt": [5, 6]}, True),
        ("prompt_chars_gte", 9, {"path": "/v1/completions", "prompt": [5, 6]}, False),
        ("prompt_chars_lte", 3, {"path": "/v1/completions", "prompt": ["ab", "cd"]}, False),
        ("messages_gte", 2, {"messages": [{"role": "user", "content": "a"}] * 2}, True),
        ("messages_gte", 2, user("a"), False),
        ("stream", True, {"stream": True}, True),
        ("stream", True, {}, False),
        ("stream", False, {}, True),
        ("has_tools", True, {"tools": [{"type": "function"}]}, True),
        ("has_tools", True, {"tools": []}, False),
        (
            "has_images",
            True,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            True,
        ),
        ("has_images", True, user("image_url"), False),
        ("client_id", "nightly-*", {}, True),
        ("client_id", "night", {}, False),
        ("any_keywords", ["python"], user("Write PYTHON!"), True),
        ("any_keywords", ["python"], user("pythonic"), False),
        ("any_keywords", ["stack trace"], user("a Stack\n trace."), True),
        ("any_keywords", ["c++"], user("in C++ please"), True),
        ("any_keywords", ["größe"], user("die Größe."), True),
        ("any_keywords", ["größe"], user("Großgröße"), False),
        ("any_keywords", ["python"], {"messages": [{"role": "system", "content": "python"}]}, False),
        ("regex", r"\d{3}-\d{4}", user("call 555-1234"), True),
        ("regex", "^x", user("ax"), False),
        ("header", {"x-canary": "yes"}, {"headers": {"x-canary": "yes"}}, True),
        ("header", {"X-Canary": "y*"}, {"headers": {"x-canary": "yes"}}, True),
        ("header", {"x-canary": "yes"}, {"headers": {}}, False),
        ("header", {"a": "1", "b": "2"}, {"headers": {"a": "1"}}, False),
        ("path", "/v1/embeddings", {"path": "/v1/embeddings"}, True),
        ("path", ["/v1/embeddings"], {}, False),
    ],
)
def test_a_condition_matches_exactly_what_it_says(
    name: str, value: Any, body: dict[str, Any], expected: bool
) -> None:
    assert make(name, value).test(features(**body)) is expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens_gte", "800"),
        ("max_tokens_gte", -1),
        ("max_tokens_gte", True),
        ("stream", "yes"),
        ("any_keywords", []),
        ("any_keywords", [1]),
        ("regex", "(unclosed"),
        ("regex", r"(a)\1"),
        ("regex", "x" * 1001),
        ("header", {"x-canary": True}),
        ("header", {}),
        ("model", None),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_a_sentence(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
        make(name, value)


def test_every_kind_has_an_example_that_builds_and_a_meaning() -> None:
    import yaml

    for name, kind in kinds().items():
        ((example_name, value),) = yaml.safe_load(kind.example).items()
        assert example_name == name
        assert make(name, value).hash == make(name, value).hash
        assert kind.meaning


def test_truths_of_text_and_headers_are_kept_and_stand_in_for_them_at_replay() -> None:
    keyword = make("any_keywords", ["python"])
    header = make("header", {"x": "1"})
    live = features(**user("python"), headers={"x": "2"})
    assert (keyword.test(live), header.test(live)) == (True, False)
    replayed = Features(truths=dict(live.truths))
    assert (keyword.test(replayed), header.test(replayed)) == (True, False)
    with pytest.raises(CannotTell):
        make("any_keywords", ["other"]).test(replayed)


def test_a_regular_expression_made_to_explode_takes_linear_time() -> None:
    # A backtracking engine needs 2**60 steps for this; the test's time limit would end it.
    assert make("regex", "(a|a)*$").test(features(**user("a" * 60 + "b" * 200_000)))


def test_prompt_text_is_not_kept_unless_a_rule_needs_it() -> None:
    bare = extract_features(user("secret"), "/v1/chat/completions", {})
    assert bare.user_text is None
    assert "secret" not in repr(bare)


@pytest.mark.parametrize(
    ("keyword", "text"), [("kelvin", "5 \u212aelvin"), ("straße", "STRAßE"), ("ſet", "SET it")]
)
def test_a_keyword_is_found_in_every_spelling_of_its_case(keyword: str, text: str) -> None:
    assert make("any_keywords", [keyword]).test(features(**user(text)))


def test_a_keyword_of_white_space_is_refused() -> None:
    with pytest.raises(ValueError, match="only white space"):
        make("any_keywords", [" "])
