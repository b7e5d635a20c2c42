"""The official `openai` package works against client.env, and raises its own exception for each error."""

import openai
import pytest

from harness.stacks.local import Stack

MODEL = "smollm2-135m-instruct"


@pytest.fixture
def client(stack: Stack) -> openai.OpenAI:
    environment = stack.client_environment()
    return openai.OpenAI(
        base_url=environment["OPENAI_BASE_URL"],
        api_key=environment["OPENAI_API_KEY"],
        max_retries=0,
        timeout=120,
    )


def test_the_models_are_listed_and_found_by_name(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {MODEL, "smollm2-135m-long"} <= names
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_chat_is_answered_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8, temperature=0
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8


def test_a_chat_is_streamed_in_pieces_that_make_up_the_same_answer(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    whole = client.chat.completions.create(**asked, temperature=0, seed=1)  # type: ignore[call-overload]
    stream = client.chat.completions.create(**asked, temperature=0, seed=1, stream=True)  # type: ignore[call-overload]
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert sum(bool(piece) for piece in pieces) > 1
    assert "".join(pieces) == whole.choices[0].message.content


def test_a_stream_carries_usage_when_it_is_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": True},
    )
    usages = [chunk.usage for chunk in stream if chunk.usage]
    assert usages
    assert usages[-1].completion_tokens <= 4


def test_a_client_that_did_not_ask_for_usage_gets_a_choice_in_every_chunk(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=4, stream=True
    )
    assert all(chunk.choices for chunk in stream)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_plain_completion_is_answered(client: openai.OpenAI, streamed: bool) -> None:
    if streamed:
        stream = client.completions.create(model=MODEL, prompt="One, two,", max_tokens=4, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    else:
        assert client.completions.create(model=MODEL, prompt="One, two,", max_tokens=4).choices[0].text


def test_an_alias_is_another_name_of_the_same_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-small", messages=[{"role": "user", "content": "Say hello."}], max_tokens=2
    )
    assert answer.choices


def test_a_wrong_key_is_an_authentication_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="sk-wrong-wrong-wrong-wrong").models.list()
    assert caught.value.response.headers["x-request-id"]


def test_an_unknown_model_is_a_not_found_error_with_its_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"
    assert "no-such-model" in str(caught.value)


def test_a_malformed_body_is_a_bad_request_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages="not a list")  # type: ignore[call-overload]
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]
