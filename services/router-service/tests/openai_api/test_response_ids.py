"""Ids of stored responses are found in paths and answers, and nothing else is taken for one."""

import pytest

from router_service.openai_api.paths import CANCEL, RETRIEVE
from router_service.openai_api.response_ids import MAX_SEARCHED, ResponseIdReader, previous_id, stored_request


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        ("/v1/responses/resp_1", b"", b"/v1/responses/resp_1"),
        ("/v1/responses/resp_1", b"include=x&stream=false", b"/v1/responses/resp_1"),
        ("/v1/responses/resp_1", b"stream=true", b"/v1/responses/resp_1?stream=true"),
        (
            "/v1/responses/resp_1",
            b"starting_after=3&stream=true&x=%26stream",
            b"/v1/responses/resp_1?stream=true&starting_after=3",
        ),
        ("/v1/responses/resp_1", b"stream=true&starting_after=-1", b"/v1/responses/resp_1?stream=true"),
        ("/v1/responses/resp_1/cancel", b"stream=true", b"/v1/responses/resp_1/cancel"),
    ],
)
def test_a_request_about_a_response_reaches_the_engine_in_one_spelling(
    path: str, query: bytes, target: bytes
) -> None:
    stored = stored_request(path, query)
    assert stored is not None
    assert (stored.response_id, stored.target) == ("resp_1", target)
    assert stored.stream is (b"stream=true" in target)
    cancels = path.endswith("/cancel")
    assert (stored.path, stored.method) == ((CANCEL, "POST") if cancels else (RETRIEVE, "GET"))


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/responses/", "/v1/responses//cancel", "/v1/responses/a/b", "/v1/responses/a/cancel/"),
        *(
            "/v1/responses/..",
            "/v1/responses/a b",
            "/v1/responses/a?x",
            "/v1/responses/a\n",
            "/v1/responses/é",
        ),
        *("/v1/responses/" + "a" * 129, "/v1/models/a", "/v1/responses/a/input_items"),
    ],
)
def test_other_paths_are_no_request_about_a_response(path: str) -> None:
    assert stored_request(path, b"") is None


WHOLE = b'{"id":"resp_0a1b","object":"response","output":[{"id":"msg_2"}]}'
CREATED = (
    b'event: response.created\ndata: {"response":{"id":"resp_0a1b","previous_response_id":"resp_old"},'
    b'"sequence_number":0,"type":"response.created"}\n\n'
)


@pytest.mark.parametrize("answer", [WHOLE, CREATED, WHOLE.replace(b'":"', b'": "')])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_id_is_found_in_pieces_of_any_size(answer: bytes, size: int) -> None:
    reader = ResponseIdReader()
    found = []
    for at in range(0, len(answer), size):
        if not reader.over and (one := reader.feed(answer[at : at + size])):
            found.append(one)
    assert found == ["resp_0a1b"]


@pytest.mark.parametrize(
    "answer",
    [
        b'{"previous_response_id":"resp_old"}',
        rb'{"instructions":"say \"id\":\"resp_text\""}',
        b'{"id":"msg_1"}',
        b'{"id":"resp_' + b"a" * 200 + b'"}',
    ],
)
def test_nothing_else_is_taken_for_an_id(answer: bytes) -> None:
    assert ResponseIdReader().feed(answer) == ""


def test_the_search_ends() -> None:
    reader = ResponseIdReader()
    assert reader.feed(b"x" * (MAX_SEARCHED + 1)) == ""
    assert reader.over


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"previous_response_id": "resp_1"}, "resp_1"),
        ({"previous_response_id": None}, ""),
        ({"previous_response_id": ["resp_1"]}, ""),
        ({"previous_response_id": "x" * 129}, ""),
        ({}, ""),
    ],
)
def test_only_a_short_text_names_a_previous_response(body: dict[str, object], found: str) -> None:
    assert previous_id(body) == found
