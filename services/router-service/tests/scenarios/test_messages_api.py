"""Each API gets its own errors: Anthropic's envelope and event for messages, one error event for every stream."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from harness.servers.router_fleet import MODEL, RouterPart, fleet_in
from harness.servers.scripted_engine import ScriptedEngine, scripted_engine
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed]

MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data}, separators=(',', ':'))}\n\n".encode()


def delta(text: str) -> bytes:
    return event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}})


STOP = event("message_stop", {})
ENGINE_ERROR = event("error", {"error": {"type": "internal_error", "message": "CUDA error"}})


def chunked(*pieces: bytes, end: bytes = END) -> bytes:
    return SSE + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def plain(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.fixture(scope="module")
def engines() -> Iterator[list[ScriptedEngine]]:
    with scripted_engine() as first, scripted_engine() as second:
        yield [first, second]


@pytest.fixture(scope="module")
def router(engines: list[ScriptedEngine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterPart]:
    backends = {f"engine-{number}": {"url": engine.url} for number, engine in enumerate(engines)}
    with fleet_in(tmp_path_factory.mktemp("messages")) as fleet:
        yield fleet.add_router(
            wait_usable=2,
            pools={"general": {"models": [MODEL], "backends": backends}},
            breaker={"failures": 10_000},
            retries={"max_attempts": 2, "budget_min": 10},
        )


def script(engines: list[ScriptedEngine], *steps: bytes | str) -> None:
    for engine in engines:
        engine.script = list(steps)


def ask(router: RouterPart, path: str, *, stream: bool = False, model: str = MODEL) -> tuple[int, bytes]:
    """Return the status and the body, whether it came to its end or not."""
    body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
    received = b""
    with httpx.stream("POST", router.url + path, json={**body, "stream": stream}, timeout=20) as answer:
        try:
            for piece in answer.iter_raw():
                received += piece
        except httpx.RemoteProtocolError:
            received += b"(cut)"
    return answer.status_code, received


@pytest.mark.parametrize("path", [MESSAGES, "/v1/messages/count_tokens"])
def test_every_answer_has_the_id_that_anthropics_sdks_read(router, engines, path: str) -> None:
    script(engines, plain("200 OK", b"{}"))
    body = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    answers = [
        httpx.post(router.url + path, json=body, timeout=20),
        httpx.post(router.url + path, json={**body, "model": "unknown"}, timeout=20),
        httpx.get(router.url + path),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 405]
    assert all(answer.headers["request-id"] == answer.headers["x-request-id"] for answer in answers)


def check_anthropic(error: dict[str, Any], kind: str) -> None:
    assert error["type"] == "error"
    assert set(error) == {"type", "error"}
    assert set(error["error"]) == {"type", "message"}
    assert error["error"]["type"] == kind


@pytest.mark.parametrize("path", [MESSAGES, "/v1/messages/count_tokens"])
def test_the_routers_own_refusals_have_anthropics_envelope(router, engines, path: str) -> None:
    status, body = ask(router, path, model="unknown")
    assert status == 404
    check_anthropic(json.loads(body), "not_found_error")
    answer = httpx.post(router.url + path, content=b"no JSON")
    assert answer.status_code == 400
    check_anthropic(answer.json(), "invalid_request_error")
    answer = httpx.get(router.url + path)
    assert answer.status_code == 405
    check_anthropic(answer.json(), "invalid_request_error")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad Request", "invalid_request_error"),
        ("500 Oops", "api_error"),
        ("503 Busy", "overloaded_error"),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"said the engine","type":"BadRequestError","param":null,"code":400}}',
        b'{"type":"error","error":{"type":"BadRequestError","message":"said the engine"}}',
        b'{"detail":"said the engine"}',
    ],
)
def test_an_engines_error_is_translated(router, engines, status: str, kind: str, body: bytes) -> None:
    script(engines, plain(status, body))
    code, received = ask(router, MESSAGES)
    assert code == int(status[:3])
    error = json.loads(received)
    check_anthropic(error, kind)
    assert error["error"]["message"] == "said the engine"


def test_an_anthropic_error_of_the_engine_passes_unchanged(router, engines) -> None:
    body = b'{"type": "error",  "error":{"type":"invalid_request_error","message":"m"}}'
    script(engines, plain("400 Bad Request", body))
    assert ask(router, MESSAGES) == (400, body)


@pytest.mark.parametrize("end", [b"", END])
def test_a_cut_message_stream_ends_with_one_error_event(router, engines, end: bytes) -> None:
    script(engines, chunked(delta("one"), end=end), *([] if end else ["close"]))
    status, received = ask(router, MESSAGES, stream=True)
    assert status == 200
    assert received.startswith(delta("one"))
    assert received.endswith(b"(cut)")
    assert received.count(b"event: error\n") == 1
    check_anthropic(json.loads(received.split(b"event: error\ndata: ")[1].split(b"\n\n")[0]), "api_error")


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_an_engines_own_error_event_is_followed_by_no_second_one(router, engines, path: str) -> None:
    script(engines, chunked(delta("one"), ENGINE_ERROR, STOP))
    _, received = ask(router, path, stream=True)
    assert received.count(b"event: error\n") == 1
    assert b"CUDA error" not in received
    data = json.loads(received.split(b"event: error\ndata: ")[1].split(b"\n\n")[0])
    assert data["type"] == "error"
    if path == RESPONSES:
        assert data["message"] == data["error"]["message"]
        assert data["code"] == "upstream_error"


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_an_engines_error_as_first_event_is_retried(router, engines, path: str) -> None:
    done = STOP if path == MESSAGES else event("response.completed", {"response": {}})
    script(engines, chunked(ENGINE_ERROR))
    engines[1].script = [chunked(delta("fine"), done)]
    seen = set()
    for _ in range(6):
        status, received = ask(router, path, stream=True)
        assert (status, received) == (200, delta("fine") + done)
        decisions = httpx.get(f"{router.url}/debug/decisions?limit=1").json()["decisions"]
        seen.add(len(decisions[0]["attempts"]))
    assert 2 in seen, "no request began at the engine that fails"


ANNOUNCED = {
    MESSAGES: event("message_start", {"message": {"content": [], "usage": {}}}),
    RESPONSES: event("response.created", {"response": {}}) + event("response.in_progress", {"response": {}}),
}


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_a_death_after_the_announcement_of_an_answer_is_retried(router, engines, path: str) -> None:
    done = STOP if path == MESSAGES else event("response.completed", {"response": {}})
    script(engines, chunked(ANNOUNCED[path], end=b""), "close")
    engines[1].script = [chunked(ANNOUNCED[path], delta("fine"), done)]
    seen = set()
    for _ in range(6):
        status, received = ask(router, path, stream=True)
        assert (status, received) == (200, ANNOUNCED[path] + delta("fine") + done)
        decisions = httpx.get(f"{router.url}/debug/decisions?limit=1").json()["decisions"]
        seen.add(len(decisions[0]["attempts"]))
    assert 2 in seen, "no request began at the engine that dies"


def test_a_models_text_about_errors_is_no_error(router, engines) -> None:
    said = delta('event: error\ndata: {"type":"error"}')
    script(engines, chunked(said, STOP))
    assert ask(router, MESSAGES, stream=True) == (200, said + STOP)


@pytest.mark.parametrize("size", [10, 1_600_000, 3_000_000])
@pytest.mark.parametrize("before", [True, False])
def test_token_counts_are_found_wherever_usage_stands(router, engines, size: int, before: bool) -> None:
    usage = '"usage":{"prompt_tokens":11,"total_tokens":14,"completion_tokens":3}'
    rest = f'"prompt_logprobs":["{"x" * size}"]'
    body = "{" + ",".join([usage, rest] if before else [rest, usage]) + "}"
    script(engines, plain("200 OK", body.encode()))
    request = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    answer = httpx.post(f"{router.url}/v1/chat/completions", json=request, timeout=20)
    assert answer.text == body
    found = eventually(
        lambda: httpx.get(f"{router.url}/debug/decisions/{answer.headers['x-request-id']}").json(),
        "the record is kept",
    )
    assert (found["tokens"]["prompt"], found["tokens"]["completion"]) == (11, 3)
