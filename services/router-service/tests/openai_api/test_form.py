"""A form is read as its writer meant it, or refused; only the changed field changes its bytes."""

from email import message_from_bytes
from email.policy import HTTP
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judges.form_corpus import FORM_DATA, MAX_PARTS, PLAIN, REFUSED, TYPE, WRONG_TYPES, part, parts
from router_service.openai_api.form import BadForm, read_form, with_form_field

NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True).filter(
    lambda name: name not in ("stream", "stream_include_usage", "max_completion_tokens")
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


def written(fields: dict[str, str], audio: bytes, file_name: str = "speech.wav") -> tuple[bytes, bytes]:
    """Return the body and the content type that httpx, and so OpenAI's client, writes."""
    request = httpx.Request("POST", "http://a/", data=fields, files={"file": (file_name, audio)})
    return request.read(), request.headers["content-type"].encode()


@given(fields=st.dictionaries(NAMES, TEXTS, max_size=6), audio=st.binary(max_size=200), file_name=TEXTS)
def test_a_clients_form_is_read_as_written(fields: dict[str, str], audio: bytes, file_name: str) -> None:
    fields.pop("file", None)
    body, kind = written(fields, audio, file_name or "a")
    form = read_form(body, kind)
    assert form == fields
    assert form.files == {"file"}
    start, end = form.spans["file"]
    assert body[start:end] == audio


@given(fields=st.dictionaries(NAMES, TEXTS, max_size=4), audio=st.binary(max_size=99), model=TEXTS)
def test_a_changed_model_changes_no_other_byte(fields: dict[str, str], audio: bytes, model: str) -> None:
    fields = {**fields, "model": "alias"}
    fields.pop("file", None)
    body, kind = written(fields, audio)
    changed = with_form_field(body, read_form(body, kind), "model", model)
    assert len(changed) == len(body) - len("alias") + len(model.encode())
    assert read_form(changed, kind) == {**fields, "model": model}


@given(
    body=st.lists(st.sampled_from([PLAIN[:-7], b"--x--", b"--x\r\n", b"\r\n", b"a", b'"', b";"]), max_size=9)
)
def test_what_is_accepted_is_what_another_parser_reads(body: list[bytes]) -> None:
    whole = b"".join(body)
    try:
        form = read_form(whole, TYPE.encode())
    except BadForm:
        return
    message = message_from_bytes(b"content-type: " + TYPE.encode() + b"\r\n\r\n" + whole, policy=HTTP)
    parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
    assert set(parts) == set(form)


def test_fields_have_the_types_of_a_json_body() -> None:
    body, kind = written(
        {"stream": "True", "stream_include_usage": "1", "max_completion_tokens": "17", "n": "2"}, b""
    )
    expected: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    assert read_form(body, kind) == {**expected, "max_completion_tokens": 17, "n": "2"}


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "include[]"])
def test_a_list_may_repeat_its_name(name: str) -> None:
    part = b'--x\r\ncontent-disposition: form-data; name="%b"\r\n\r\nword\r\n' % name.encode()
    assert read_form(part * 2 + b"--x--", TYPE.encode()) == {name: "word"}


@pytest.mark.parametrize("kind", [None, *WRONG_TYPES])
def test_a_content_type_without_a_plain_boundary_is_refused(kind: str | None) -> None:
    with pytest.raises(BadForm, match="content-type"):
        read_form(PLAIN, kind.encode() if kind is not None else None)


@pytest.mark.parametrize(("what", "body", "told"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_readers_could_read_differently_is_refused(what: str, body: bytes, told: str) -> None:
    with pytest.raises(BadForm, match=told):
        read_form(body, TYPE.encode())


def test_a_text_must_be_utf_8() -> None:
    with pytest.raises(BadForm, match="'model' must be UTF-8"):
        read_form(part(FORM_DATA + b'name="model"', b"\xff"), TYPE.encode())


def test_the_most_parts_are_read() -> None:
    assert len(read_form(parts(MAX_PARTS), TYPE.encode())) == MAX_PARTS
