"""The edge's interface to all kinds of clients: error forms, content types, browsers, IPv6."""

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.ports import free_port
from harness.servers.edges import CHAT, CLIENT_KEY, GOOD_BODY, Edge, running_edge
from harness.servers.recording_upstream import Manner, RecordingUpstream

pytestmark = [pytest.mark.service, pytest.mark.untimed]

MESSAGES = "/v1/messages"
GOOD_MESSAGE = {**GOOD_BODY, "max_tokens": 5}


def anthropic_error(answer: httpx.Response) -> str:
    """Return the type of an error in Anthropic's envelope; fail on any other form."""
    document = answer.json()
    assert set(document) == {"type", "error", "request_id"}, document
    assert document["type"] == "error"
    assert set(document["error"]) == {"type", "message"}
    assert document["error"]["message"]
    assert document["request_id"] == answer.headers["x-request-id"] == answer.headers["request-id"]
    return str(document["error"]["type"])


@pytest.mark.parametrize("path", [MESSAGES, f"{MESSAGES}/count_tokens"])
def test_errors_of_the_messages_api_have_its_envelope(
    edge: Edge, upstream: RecordingUpstream, path: str
) -> None:
    assert anthropic_error(edge.post({}, path)) == "invalid_request_error"
    assert (
        anthropic_error(edge.post(GOOD_MESSAGE, path, key="sk-wrong-0123456789abcdef"))
        == "authentication_error"
    )
    assert anthropic_error(edge.post(b"x" * 2_000_000, path)) == "request_too_large"
    assert (
        anthropic_error(edge.post(GOOD_MESSAGE, path, content_type="text/plain")) == "invalid_request_error"
    )
    assert anthropic_error(httpx.get(edge.url + path, headers=edge.headers())) == "invalid_request_error"
    assert upstream.count == 0
    upstream.manner = Manner(hang_up=True)
    assert anthropic_error(edge.post(GOOD_MESSAGE, path)) == "overloaded_error"


def test_rates_of_the_messages_api_are_refused_in_its_envelope(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    slow = {"limits": {"default": {"requests_per_second": 0.1, "burst": 1}}}
    with running_edge(tmp_path, upstream.port, slow) as edge:
        assert edge.post(GOOD_MESSAGE, MESSAGES).status_code == 200
        answer = edge.post(GOOD_MESSAGE, MESSAGES)
    assert (answer.status_code, anthropic_error(answer)) == (429, "rate_limit_error")
    assert answer.headers["retry-after"] == "10"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json", "application/json;", "application/json; charset=utf8",
        "application/json;charset=UTF-8;", 'APPLICATION/JSON; charset="utf-8"',
    ],
)  # fmt: skip
def test_spellings_of_the_content_type_pass(
    edge: Edge, upstream: RecordingUpstream, content_type: str
) -> None:
    assert edge.post(content_type=content_type).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=latin1", "application/json, text/plain", "json"]
)
def test_other_content_types_are_refused(edge: Edge, upstream: RecordingUpstream, content_type: str) -> None:
    assert edge.post(content_type=content_type).status_code == 415


def test_the_count_of_tokens_is_for_the_log_only(edge: Edge, upstream: RecordingUpstream) -> None:
    upstream.manner = Manner(tokens="prompt=3,completion=4")
    answer = edge.post()
    assert "x-route-tokens" not in answer.headers
    line = edge.access_line(answer.headers["x-request-id"])
    assert line["tokens_known_at_start"] == "prompt=3,completion=4"


def test_a_header_with_an_underscore_is_dropped_and_counted(edge: Edge, upstream: RecordingUpstream) -> None:
    dropped = "envoy_http1_dropped_headers_with_underscores"
    before = edge.metric(dropped)
    headers = {**edge.headers(), "x_client_id": "evil", "x_note": "a"}
    assert httpx.post(edge.url + CHAT, json=GOOD_BODY, headers=headers).status_code == 200
    assert not [name for name, _ in upstream.received[0].headers if "_" in name]
    assert edge.metric(dropped) == before + 2


def test_the_default_size_takes_two_phone_photos(tmp_path: Path, upstream: RecordingUpstream) -> None:
    """The rest of the body counts too: 10 MiB is the size of the whole body."""

    def photos(size: int) -> dict[str, Any]:
        picture = {
            "type": "image_url",
            "image_url": {"url": "data:image/jpeg;base64," + "A" * (size * 4 // 3)},
        }
        return {**GOOD_BODY, "messages": [{"role": "user", "content": [picture, picture]}]}

    with running_edge(tmp_path, upstream.port) as edge:
        assert edge.post(photos(3_900_000)).status_code == 200
        assert len(upstream.received[0].body) > 10_000_000
        refused = edge.post(photos(4_000_000))
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")


PREFLIGHT = {"origin": "https://chat.example", "access-control-request-method": "POST"}


def test_no_web_page_may_read_answers_by_default(edge: Edge, upstream: RecordingUpstream) -> None:
    answer = httpx.options(edge.url + CHAT, headers=PREFLIGHT)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


def test_a_listed_web_page_may_read_answers(tmp_path: Path, upstream: RecordingUpstream) -> None:
    with running_edge(tmp_path, upstream.port, {"cors": {"allow_origins": ["https://chat.example"]}}) as edge:
        preflight = httpx.options(edge.url + CHAT, headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert upstream.count == 0
        answer = edge.post(origin="https://chat.example")
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        refused = edge.post(key="sk-wrong-0123456789abcdef", origin="https://chat.example")
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://chat.example"
        other = httpx.options(edge.url + CHAT, headers={**PREFLIGHT, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        plain = httpx.options(edge.url + CHAT, headers={"origin": "https://chat.example"})
        assert plain.status_code == 405, "only a preflight is answered"
        assert upstream.count == 1


@pytest.mark.parametrize("host", ["::1", "::"])
def test_every_listener_takes_an_address_of_ipv6(
    tmp_path: Path, upstream: RecordingUpstream, host: str
) -> None:
    admin = free_port()
    settings = {
        "listen": {"host": host},
        "telemetry": {"host": "::"},
        "admin": {"host": "::1", "port": admin},
    }
    with running_edge(tmp_path, upstream.port, settings) as edge:
        url = f"http://[::1]:{edge.port}"
        assert httpx.post(url + CHAT, json=GOOD_BODY, headers=edge.headers(CLIENT_KEY)).status_code == 200
        assert httpx.get(f"http://[::1]:{admin}/ready").status_code == 200
        if host == "::":
            assert edge.post().status_code == 200, "`::` serves IPv4 too"
        else:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", edge.port), timeout=5)
