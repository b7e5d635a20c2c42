"""A changed field changes no other byte of the body, however the body is written."""

from collections.abc import Callable
from time import process_time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.openai_api.body_edit import PieceEditor, renamed, with_field, without_metrics

KEY = st.sampled_from(["model", "messages", "temperature", "mod\u00e9l", 'a"b', "cache_salt"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31)
    | st.text(max_size=8)
    | st.sampled_from(["model", "alias"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=8,
)


@given(body=st.dictionaries(KEY, JSON, max_size=5), name=st.sampled_from(["model", "cache_salt"]))
def test_any_object_reads_the_same_but_for_the_field(body: dict[str, Any], name: str) -> None:
    raw = orjson.dumps(body, option=orjson.OPT_INDENT_2)
    changed = orjson.loads(with_field(raw, body, name, "new"))
    assert changed == {**body, name: "new"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a","x": 1.50}', b'{"model":"new","x": 1.50}'),
        (b' { "x":[ ] ,  "model" : "a" } \n', b' { "x":[ ] ,  "model" : "new" } \n'),
        (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"new"}'),
        (b'{"model":"a","x":{"model":"a"}}', b'{"model":"new","x":{"model":"a"}}'),
        (b'{"model":"a","model":"a"}', b'{"model":"a","model":"new"}'),
        (b'{"model":"\\u0061"}', b'{"model":"new"}'),
        (b'{"x":"\\"model\\":\\"a\\"","model":"a"}', b'{"x":"\\"model\\":\\"a\\"","model":"new"}'),
        (b'{"x":1e2}', b'{"x":1e2,"model":"new"}'),
        (b"{}", b'{"model":"new"}'),
    ],
)
def test_no_other_byte_changes(body: bytes, expected: bytes) -> None:
    assert with_field(body, orjson.loads(body), "model", "new") == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"mod\\u0065l":"a"}',
        b'{"model":null}',
        b'{"model":{"model":"a"}}',
        b'{"model":"a","mod\\u0065l":"a"}',
    ],
)
def test_a_field_that_is_hidden_or_no_text_is_set_all_the_same(body: bytes) -> None:
    assert orjson.loads(with_field(body, orjson.loads(body), "model", "new")) == {"model": "new"}


def test_a_clients_own_salt_is_replaced() -> None:
    body = b'{"cache_salt":"guess","model":"m"}'
    assert with_field(body, orjson.loads(body), "cache_salt", "mine") == b'{"cache_salt":"mine","model":"m"}'


def test_the_model_is_renamed_wherever_it_is_a_value_and_never_in_text() -> None:
    data = b'data: {"model":"m","response":{"model": "m"},"text":"\\"model\\":\\"m\\"","x":"m"}\n\n'
    told = b'data: {"model":"alias","response":{"model": "alias"},"text":"\\"model\\":\\"m\\"","x":"m"}\n\n'
    assert renamed(data, b'"m"', b'"alias"') == told


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"usage":{"a":1},"metrics":{"q":0.1,"n":{"x":1}},"z":1}', b'{"usage":{"a":1},"z":1}'),
        (b'{"usage":{"a":1}, "metrics" : {"q":0.1}}', b'{"usage":{"a":1}}'),
        (b'{"metrics":{"q":0.1},"z":1}', b'{"z":1}'),
        (b'{"metrics":{}}', b"{}"),
        (b'{"metrics":null,"text":"\\"metrics\\":{}"}', b'{"metrics":null,"text":"\\"metrics\\":{}"}'),
        (b'{"a":1,"metrics":{"q":1}}\n\n{"a":2,"metrics":{"q":2}}', b'{"a":1}\n\n{"a":2}'),
    ],
)
def test_metrics_are_left_out(data: bytes, expected: bytes) -> None:
    assert without_metrics(data) == expected


@given(cuts=st.lists(st.integers(1, 30_000), max_size=6), before=st.integers(0, 20_000))
def test_a_body_in_pieces_is_edited_as_a_whole_one(cuts: list[int], before: int) -> None:
    body = b'{"model":"m","x":"%b","usage":{"a":1},"metrics":{"q":0.1},"y":"%b"}' % (
        b"x" * before,
        b"y" * 9000,
    )
    editor = PieceEditor((b'"m"', b'"alias"'), hide_metrics=True)
    out, start = b"", 0
    for size in cuts:
        out += editor.feed(body[start : start + size])
        start += size
    out += editor.feed(body[start:]) + editor.rest()
    assert out == body.replace(b'"m"', b'"alias"').replace(b',"metrics":{"q":0.1}', b"")


_MEGABYTES = 4 * 1024 * 1024


@pytest.mark.parametrize(
    "raw",
    [
        b'{"cache_salt":"%b","m":1}' % (b"x" * _MEGABYTES),
        b'{"cache_salt":"%b","m":1}' % (b"\\n" * (_MEGABYTES // 2)),
        b'{"cache_salt":"%b","m":1}' % (b"\\u00e9" * (_MEGABYTES // 6)),
        b'{"a":[%b0],"cache_salt":"a"}' % (b'{"cache_salt":"a"},' * (_MEGABYTES // 19)),
        b'{"a":[%b0],"cache_salt":"a","x":"%b"}' % (b'{"cache_salt":"a"},' * 7, b"y" * _MEGABYTES),
        b'{"a":["%b"],"cache_salt":"a"}' % (b'\\"cache_salt\\":' * (_MEGABYTES // 15)),
        b'{"a":"","cache_salt"%b:"a"}' % (b" " * _MEGABYTES),
    ],
    ids=["long", "escapes", "unicode", "decoys", "few decoys", "quoted names", "spaces"],
)
def test_a_field_of_megabytes_costs_a_few_parses_of_the_body(raw: bytes) -> None:
    """A client chooses the field's text; a pattern over 4 MB would block the event loop for half a second."""

    def cpu_seconds(call: Callable[[], object]) -> float:
        began = process_time()
        call()
        return process_time() - began

    parsed = orjson.loads(raw)
    assert orjson.loads(with_field(raw, parsed, "cache_salt", "new")) == {**parsed, "cache_salt": "new"}
    parse = min(cpu_seconds(lambda: orjson.loads(raw)) for _ in range(5))
    change = min(cpu_seconds(lambda: with_field(raw, parsed, "cache_salt", "new")) for _ in range(3))
    assert change < 15 * parse + 0.01, f"{change:.3f} s against {parse:.3f} s for a parse"
