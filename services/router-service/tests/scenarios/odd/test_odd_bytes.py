"""Engines that send invalid bytes: the router responds in one error format and continues to serve."""

import gzip
import json
import socket
from typing import Any

import httpx
import pytest

from harness.judges.raw_streams import whole_body
from harness.servers.odd_bytes import (
    ANSWER,
    DONE,
    SSE,
    ask,
    chunked,
    error_of,
    plain,
    raw_request,
    talk,
    text,
)
from harness.servers.router_fleet import MODEL, RouterPart

pytestmark = [pytest.mark.service, pytest.mark.untimed]


@pytest.mark.parametrize("status", [b"799 Odd", b"600 Odd", b"099 Odd", b"000 Odd"])
def test_a_status_outside_of_http_is_a_failed_attempt(router, engine, status: bytes) -> None:
    engine.script = [b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n"]
    answer = ask(router)
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert error_of(answer)["code"] == "upstream_error"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_announces_none_and_the_connection_serves_on(
    router, engine, status: int
) -> None:
    engine.script = [b"HTTP/1.1 %d Nothing\r\n\r\n" % status]
    body = json.dumps({"model": MODEL}).encode()
    answers = talk(router, raw_request(body) + raw_request(body, b"connection: close\r\n"))
    assert b"transfer-encoding" not in answers
    assert answers.count(b"HTTP/1.1 %d " % status) == 2
    assert answers.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("ending", ["0\r\n\r\n", "close", "reset"])
def test_the_terminal_event_in_a_models_text_ends_no_stream(router, engine, ending: str) -> None:
    end = ending.encode() if ending.startswith("0") else b""
    engine.script = [chunked(text("I say"), text("data: [DONE]"), text("\ndata: [DONE]\n\n"), end=end)]
    engine.script += [] if end else [ending]
    answer = ask(router, stream=True)
    assert not answer.endswith(b"0\r\n\r\n")
    assert answer.count(b'data: {"error"') == 1
    assert b"\ndata: [DONE]\n\n" not in answer


@pytest.mark.parametrize("framing", ["until close", "too short a length"])
def test_a_stream_that_ends_inside_an_event_ends_with_one_error_event(router, engine, framing: str) -> None:
    sent = text("all")[:-20]
    length = b"content-length: %d\r\n" % len(text("one") + sent) if framing != "until close" else b""
    engine.script = [SSE + length + b"\r\n" + text("one") + sent, "close"]
    answer = ask(router, stream=True)
    begun, error, rest = plain(answer).split(b"\n\n")
    assert (begun + b"\n\n", rest) == (text("one"), b"")
    assert json.loads(error.removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("after", [b"\n", b"\n\n", b": bye\n", b": bye\n\n"])
def test_line_ends_and_comments_behind_the_terminal_event_are_no_error(router, engine, after: bytes) -> None:
    engine.script = [
        chunked(text("all") + DONE, end=b""),
        0.02,
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(after), after),
    ]
    answer = ask(router, stream=True)
    assert answer.endswith(b"0\r\n\r\n")
    assert plain(answer).startswith(text("all") + DONE)
    assert b'"error"' not in answer


@pytest.mark.parametrize("items", [100, 60_000], ids=["held", "passed on"])
@pytest.mark.parametrize("sized", [True, False])
def test_the_counts_behind_a_large_answer_reach_the_record_and_the_edge(
    router, engine, items: int, sized: bool
) -> None:
    data = b",".join([b'{"object":"embedding"}'] * items)
    body = b'{"data":[' + data + b'],"usage":{"prompt_tokens":9,"total_tokens":9}}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    if sized:
        engine.script = [head + b"content-length: %d\r\n\r\n" % len(body) + body]
    else:
        framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        engine.script = [head + b"transfer-encoding: chunked\r\n\r\n" + framed]
    name = b"large-%d-%d" % (items, sized)
    answer = ask(router, headers=b"te: trailers\r\nconnection: close\r\nx-request-id: " + name + b"\r\n")
    assert answer.count(b"x-route-tokens: prompt=9,completion=0\r\n") == 1
    assert (plain(answer) if b"\r\ntransfer-encoding" in answer else answer).endswith(body)
    record = httpx.get(f"{router.url}/debug/decisions/{name.decode()}").json()
    assert (record["tokens"]["prompt"], record["tokens"]["completion"]) == (9, 0)


def test_a_large_answer_that_breaks_is_no_whole_one_for_an_http_1_0_client(router, engine) -> None:
    body = b'{"data":["' + b"x" * 1_500_000
    engine.script = [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b" % (2_000_000, body),
        0.5,
        "close",
    ]
    asked = json.dumps({"model": MODEL}).encode()
    with socket.create_connection(("127.0.0.1", router.port), timeout=15) as connection:
        connection.sendall(raw_request(asked).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        with pytest.raises(ConnectionResetError):
            b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("framing", ["chunked", "longer than sent"])
def test_a_stream_whose_terminal_event_came_is_whole_however_its_connection_ends(
    router, engine, framing: str, ending: str
) -> None:
    if framing == "chunked":
        engine.script = [chunked(text("all"), DONE, end=b""), ending]
    else:
        engine.script = [SSE + b"content-length: 9999\r\n\r\n" + text("all") + DONE, 0.05, ending]
    answer = ask(router, stream=True)
    assert answer.endswith(b"0\r\n\r\n")
    assert answer.count(DONE) == 1
    assert b'"error"' not in answer


@pytest.mark.parametrize(
    "answer",
    [
        chunked(text("x")[:9], text("x")[9:], DONE[:3], DONE[3:]),
        SSE + b"content-length: %d\r\n\r\n" % len(text("x") + DONE) + text("x") + DONE,
        b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + chunked(text("x"), DONE),
        chunked(text("x"), DONE, end=b"0\r\nx-trailer: 1\r\n\r\n"),
        chunked(text("x") + DONE).replace(b"\r\ntransfer", b"\r\nconnection: close\r\ntransfer"),
    ],
    ids=["split", "sized", "1xx", "trailers", "close"],
)
def test_every_framing_gives_the_client_the_same_bytes(router, engine, answer: bytes) -> None:
    engine.script = [answer] + (["close"] if b"connection: close" in answer else [])
    got = ask(router, stream=True)
    assert b"x-trailer" not in got
    assert whole_body(got.split(b"\r\n\r\n", 1)[1]) == text("x") + DONE


def test_headers_that_no_client_may_see_are_refused_or_left_out(router, engine) -> None:
    engine.script = [ANSWER.replace(b"\r\n\r\n", b"\r\nx-bad: a\x01b\r\n\r\n", 1)]
    assert ask(router).startswith(b"HTTP/1.1 502 "), "a control character is no HTTP"
    engine.script = [
        ANSWER.replace(b"\r\n\r\n", b"\r\nx-route-backend: evil\r\nserver: a\r\nserver: b\r\n\r\n", 1)
    ]
    answer = ask(router)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"evil" not in answer
    assert b"server:" not in answer


PLAIN_BODY = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
GZIP = b"content-encoding: gzip\r\n"


def sized(body: bytes, more: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b" % (
        status,
        more,
        len(body),
        body,
    )


def latest_record(router: RouterPart) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{router.url}/debug/decisions?limit=1").json()["decisions"][0]
    return found


@pytest.mark.parametrize(("encoded", "tokens"), [(True, (None, None)), (False, (1, 2))])
def test_an_encoded_answer_keeps_its_bytes_and_its_encoding_and_has_no_usage(
    router, engine, encoded: bool, tokens: tuple[int | None, int | None]
) -> None:
    body = gzip.compress(PLAIN_BODY) if encoded else PLAIN_BODY
    engine.script = [sized(body, GZIP if encoded else b"")]
    head, got = ask(router, headers=b"connection: close\r\naccept-encoding: gzip\r\n").split(b"\r\n\r\n", 1)
    assert got == body
    assert (b"content-encoding: gzip" in head) is encoded
    assert b"content-length: %d" % len(body) in head
    assert b"accept-encoding" not in engine.requests[-1][0].lower(), "no engine is asked to encode"
    record = latest_record(router)
    assert record["outcome"] == "ok"
    assert (record["tokens"]["prompt"], record["tokens"]["completion"]) == tokens


def test_an_encoded_stream_keeps_its_bytes_and_its_encoding_and_has_no_usage(router, engine) -> None:
    """For every cut: the compressed bytes contain no events, so the router waits for none."""
    whole = gzip.compress(text("all") + b"data: " + PLAIN_BODY + b"\n\n" + DONE)
    engine.script = [chunked(*(whole[at : at + 7] for at in range(0, len(whole), 7)))]
    engine.script[0] = engine.script[0].replace(b"\r\ntransfer", b"\r\n" + GZIP + b"transfer", 1)
    head, got = ask(router, stream=True).split(b"\r\n\r\n", 1)
    assert b"content-encoding: gzip" in head
    assert whole_body(got) == whole
    record = latest_record(router)
    assert record["outcome"] == "ok"
    assert set(record["tokens"].values()) == {None}


def test_an_encoded_stream_that_breaks_is_cut_off_and_no_plain_event_is_put_into_it(router, engine) -> None:
    half = gzip.compress(text("all") + DONE)[:-9]
    engine.script = [
        chunked(half, end=b"").replace(b"\r\ntransfer", b"\r\n" + GZIP + b"transfer", 1),
        "close",
    ]
    _, got = ask(router, stream=True).split(b"\r\n\r\n", 1)
    assert got == b"%x\r\n%b\r\n" % (len(half), half), "its bytes and no end"
    assert latest_record(router)["outcome"] == "truncated"


def test_an_error_that_is_told_in_plain_words_is_not_called_encoded(router, engine) -> None:
    engine.script = [sized(gzip.compress(b'{"error": {"message": "no"}}'), GZIP, b"400 Bad Request")]
    answer = ask(router)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"content-encoding" not in answer.split(b"\r\n\r\n", 1)[0]
    assert error_of(answer)
