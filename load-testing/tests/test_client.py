"""The load client never reports a faulty response as good."""

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest

from harness.ports import free_port
from load_testing.measure.outcome import Outcome, RequestRecord
from load_testing.users.client import Client


def _sibling(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


answering = _sibling("lying_server").answering

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: r1\r\n"
    b"x-route-backend: backend-a\r\nx-route-attempts: 2\r\ntransfer-encoding: chunked\r\n\r\n"
)
TEXT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"completion_tokens":1,"prompt_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def sent(
    parts: list[bytes], reset: bool = False, streamed: bool = True, late_seconds: float = 0.0
) -> RequestRecord:
    record = RequestRecord(0.0, 0.0, "kind", "model", streamed)
    with answering(parts, reset) as url:
        due = time.perf_counter() - late_seconds
        Client(url, "key").send(record, {"stream": streamed}, expected_tokens=1, headers={}, due=due)
    return record


def test_a_whole_stream_is_good() -> None:
    record = sent([HEAD, chunk(TEXT), chunk(USAGE), chunk(DONE), END])
    assert (record.outcome, record.detail) == (Outcome.GOOD, "")
    assert (record.request_id, record.backend, record.attempts) == ("r1", "backend-a", 2)
    assert record.ttft_seconds is not None
    assert (record.prompt_tokens, record.completion_tokens) == (2, 1)


@pytest.mark.parametrize(
    ("parts", "reset", "outcome"),
    [
        pytest.param([HEAD, chunk(TEXT), END], False, Outcome.TRUNCATED, id="a clean end without [DONE]"),
        pytest.param([HEAD, chunk(TEXT)], False, Outcome.TRUNCATED, id="no terminating chunk"),
        pytest.param([HEAD, chunk(TEXT)], True, Outcome.TRUNCATED, id="a reset"),
        pytest.param(
            [HEAD, chunk(TEXT), chunk(USAGE), chunk(DONE)], False, Outcome.TRUNCATED, id="[DONE] but no end"
        ),
        pytest.param([HEAD, END], False, Outcome.TRUNCATED, id="an empty body"),
        pytest.param([], False, Outcome.CONNECTION, id="no answer"),
    ],
)
def test_a_broken_stream_is_never_good(parts: list[bytes], reset: bool, outcome: Outcome) -> None:
    assert sent(parts, reset).outcome is outcome


@pytest.mark.parametrize(
    "data",
    [
        b"null",
        b"5",
        b'{"choices":[null]}',
        b'{"choices":7}',
        b'{"choices":[],"usage":5}',
        b'{"choices":[{"text":"secret"}],"usage":"secret"}',
        b'{"secret":' + b"[" * 100_000,
    ],
)
def test_an_event_of_another_shape_is_a_failure_that_leaves_a_record_without_its_text(data: bytes) -> None:
    record = sent([HEAD, chunk(TEXT), chunk(b"data: " + data + b"\n\n"), chunk(DONE), END])
    assert record.outcome.failed
    assert record.detail
    assert "secret" not in record.as_json()


@pytest.mark.parametrize("choice", [b"null", b'"secret"', b"{}"])
def test_an_unstreamed_answer_of_another_shape_is_malformed(choice: bytes) -> None:
    body = b'{"choices":[%s],"usage":{"completion_tokens":1}}' % choice
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    record = sent([head, body], streamed=False)
    assert record.outcome is Outcome.MALFORMED
    assert "secret" not in record.as_json()


def test_tokens_that_are_no_number_count_as_absent() -> None:
    usage = USAGE.replace(b'"completion_tokens":1', b'"completion_tokens":"secret"')
    record = sent([HEAD, chunk(TEXT), chunk(usage), chunk(DONE), END])
    assert (record.outcome, record.completion_tokens) == (Outcome.TOO_FEW_TOKENS, None)
    assert "secret" not in record.as_json()


def test_lines_may_end_in_crlf() -> None:
    events = [chunk(event.replace(b"\n", b"\r\n")) for event in (TEXT, USAGE, DONE)]
    assert sent([HEAD, *events, END]).outcome is Outcome.GOOD


def test_an_event_without_its_blank_line_is_not_there() -> None:
    assert sent([HEAD, chunk(TEXT), chunk(USAGE), chunk(DONE[:-1]), END]).outcome is Outcome.TRUNCATED


def test_times_count_from_when_a_request_was_due() -> None:
    record = sent([HEAD, chunk(TEXT), chunk(USAGE), chunk(DONE), END], late_seconds=5.0)
    assert record.ttft_seconds is not None
    assert 5.0 <= record.late_seconds <= record.ttft_seconds <= record.total_seconds


def test_a_refused_connection_is_a_failure_with_its_reason() -> None:
    record = RequestRecord(0.0, 0.0, "kind", "model", True)
    client = Client(f"http://127.0.0.1:{free_port()}/v1", "key")
    client.send(record, {}, expected_tokens=1, headers={}, due=time.perf_counter())
    assert record.outcome is Outcome.CONNECTION
    assert "refused" in record.detail.lower()


def test_an_unstreamed_answer_counts_its_tokens() -> None:
    body = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"completion_tokens":1}}'
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    assert sent([head, body], streamed=False).outcome is Outcome.GOOD
    short = body.replace(b'"completion_tokens":1', b'"completion_tokens":0')
    assert sent([head, short], streamed=False).outcome is Outcome.TOO_FEW_TOKENS
    assert sent([head, body[:-10]], streamed=False).outcome is Outcome.TRUNCATED


def test_an_error_answer_keeps_its_code_and_nothing_else() -> None:
    body = b'{"error":{"message":"secret prompt","code":"rate_limited"}}'
    record = sent([b"HTTP/1.1 429 Too Many\r\ncontent-length: %d\r\n\r\n" % len(body), body])
    assert (record.outcome, record.status) == (Outcome.FAILED_STATUS, 429)
    assert record.detail == "status 429 rate_limited"
    assert "secret" not in record.as_json()
