"""A bad form is refused at the edge as at the router, and a good one passes unchanged."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.judges.form_corpus import FORM_DATA, REFUSED, TYPE, WRONG_TYPES, part
from harness.servers.edges import Edge
from harness.servers.recording_upstream import RecordingUpstream

pytestmark = [pytest.mark.service, pytest.mark.untimed]

PATH = "/v1/audio/transcriptions"
AUDIO = bytes(range(256)) * 3000


@pytest.fixture(scope="module")
def client(edge: Edge) -> Iterator[httpx.Client]:
    headers = {name: value for name, value in edge.headers().items() if name != "content-type"}
    with httpx.Client(base_url=edge.url, headers=headers, timeout=30) as opened:
        yield opened


def hear(
    client: httpx.Client, fields: dict[str, str], path: str = PATH, name: str = "a.wav"
) -> httpx.Response:
    request = client.build_request("POST", path, data=fields, files={"file": (name, AUDIO, "audio/wav")})
    request.read()
    return client.send(request)


@pytest.mark.parametrize("path", [PATH, "/v1/audio/translations"])
@pytest.mark.parametrize("name", ["a.wav", "r\u00e9sum\u00e9.mp3", 'a "b"; name="model".wav', "a\\b.ogg"])
def test_a_clients_form_arrives_byte_for_byte(
    client: httpx.Client, upstream: RecordingUpstream, path: str, name: str
) -> None:
    fields = {
        "model": "m",
        "stream": "True",
        "temperature": "0.5",
        "prompt": "Names: Ad\u00e8le",
        "response_format": "json",
    }
    answer = hear(client, fields, path, name)
    assert answer.status_code == 200, answer.text
    assert [request.body for request in upstream.received] == [answer.request.content]
    assert AUDIO in upstream.received[0].body


@pytest.mark.parametrize(("what", "body", "told"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_readers_could_read_differently_is_refused(
    client: httpx.Client, upstream: RecordingUpstream, what: str, body: bytes, told: str
) -> None:
    answer = client.post(PATH, content=body, headers={"content-type": TYPE})
    assert answer.status_code == 400, what
    assert answer.json()["error"]["code"] == "invalid_form"
    assert told in answer.json()["error"]["message"]
    assert upstream.count == 0


@pytest.mark.parametrize("kind", WRONG_TYPES)
def test_another_content_type_is_415(client: httpx.Client, upstream: RecordingUpstream, kind: str) -> None:
    answer = client.post(PATH, content=b"{}", headers={"content-type": kind})
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.json()["error"]["message"]
    assert upstream.count == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"model": "m", "stream": "perhaps"}, "stream"),
        ({"model": "m", "temperature": "-1"}, "temperature"),
        ({"model": "m", "temperature": "0x10"}, "temperature"),
        ({"model": "m", "max_completion_tokens": "0"}, "max_completion_tokens"),
        ({"model": "m", "max_completion_tokens": "1.5"}, "max_completion_tokens"),
    ],
)
def test_a_wrong_field_is_named(
    client: httpx.Client, upstream: RecordingUpstream, fields: dict[str, str], param: str
) -> None:
    answer = hear(client, fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert upstream.count == 0


def test_a_text_in_place_of_the_file_is_refused(client: httpx.Client, upstream: RecordingUpstream) -> None:
    body = part(FORM_DATA + b'name="model"')[:-5] + part(FORM_DATA + b'name="file"', b"RIFF")
    answer = client.post(PATH, content=body, headers={"content-type": TYPE})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "The parameter 'file' must be a file."
    assert upstream.count == 0


def test_json_paths_take_no_form(client: httpx.Client, upstream: RecordingUpstream) -> None:
    assert hear(client, {"model": "m"}, "/v1/chat/completions").status_code == 415
    assert upstream.count == 0


def processor_seconds(edge: Edge) -> float:
    """Return the processor time that Envoy has used."""
    fields = Path(f"/proc/{edge.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


SPACES = b" " * 1900
SPACED_HEADS = b"".join(
    part(FORM_DATA + b'name="a%d"; filename="%b"' % (n, SPACES))[:-5] for n in range(63)
) + part(FORM_DATA + b'name="model"')


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        (TYPE, SPACED_HEADS, 400),
        ("multipart/form-data; boundary=x" + " " * 14_000 + "x", b"--x--", 415),
        ("multipart/form-data" + " " * 14_000 + "; boundary=x", b"--x--", 415),
        ("application/json" + " " * 14_000 + "x", b"--x--", 415),
    ],
)
def test_spaces_cost_no_more_than_other_bytes(
    client: httpx.Client, edge: Edge, kind: str, body: bytes, status: int
) -> None:
    """A pattern that tries each space as the last one needs 0.2 to 1 s of a worker for one request."""
    before = processor_seconds(edge)
    for _ in range(20):
        answer = client.post(PATH, content=body, headers={"content-type": kind})
        assert answer.status_code == status, answer.text
    assert processor_seconds(edge) - before < 2.0
