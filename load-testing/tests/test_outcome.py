"""A request is good only when its bytes say so."""

import json

import pytest

from load_testing.measure.outcome import Outcome, RequestRecord, StreamMeter, judge_stream


def chunk(text: str = "", **more: object) -> bytes:
    body = {"choices": [{"index": 0, "delta": {"content": text}}], **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def delta(**fields: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": fields}]}).encode() + b"\n\n"


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
ERROR = b'data: {"error":{"code":"x"}}\n\n'
DONE = b"data: [DONE]\n\n"


def metered(*events: bytes) -> StreamMeter:
    meter = StreamMeter(started_at=10.0, keep_text=True)
    for index, event in enumerate(events, start=1):
        meter.event(event, 10.0 + index)
    return meter


def test_a_whole_stream_is_good_and_its_times_are_those_of_its_text() -> None:
    meter = metered(chunk(""), chunk("a"), chunk("b"), USAGE, DONE)
    assert judge_stream(meter, 200, expected_tokens=2) == (Outcome.GOOD, "")
    assert meter.ttft_seconds == 2.0
    assert meter.inter_token_seconds == [1.0]
    assert meter.text == "ab"


@pytest.mark.parametrize(
    ("events", "status", "outcome"),
    [
        pytest.param((chunk("a"), chunk("b"), USAGE), 200, Outcome.TRUNCATED, id="no [DONE]"),
        pytest.param((), 200, Outcome.TRUNCATED, id="an empty 200"),
        pytest.param(
            (chunk("a"), b'data: {"error":{"code":"x"}}\n\n', DONE), 200, Outcome.ERROR_EVENT, id="error"
        ),
        pytest.param((chunk("a"), b"data: {oops\n\n", DONE), 200, Outcome.ERROR_EVENT, id="not JSON"),
        pytest.param(
            (chunk("a"), b'data: {"choices":[],"usage":{"completion_tokens":1}}\n\n', DONE),
            200,
            Outcome.TOO_FEW_TOKENS,
            id="too few tokens",
        ),
        pytest.param((chunk("a"), DONE), 200, Outcome.TOO_FEW_TOKENS, id="no usage when tokens are expected"),
        pytest.param((chunk("a"), chunk("b"), USAGE, DONE), 500, Outcome.FAILED_STATUS, id="status"),
    ],
)
def test_anything_less_is_not(events: tuple[bytes, ...], status: int, outcome: Outcome) -> None:
    assert judge_stream(metered(*events), status, expected_tokens=2)[0] is outcome
    assert outcome.failed


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_the_first_token_and_not_the_first_answer_token(name: str) -> None:
    """Reasoning at 0.1 s and content at 5 s: the two times differ by the time that the model reasons."""
    meter = StreamMeter(started_at=0.0, keep_text=True)
    meter.event(delta(role="assistant"), 0.05)
    meter.event(delta(**{name: "hm"}), 0.1)
    meter.event(chunk("yes"), 5.0)
    meter.event(USAGE, 5.1)
    meter.event(DONE, 5.2)
    assert (meter.ttft_seconds, meter.first_answer_seconds) == (0.1, 5.0)
    assert meter.text == "yes"
    assert judge_stream(meter, 200, expected_tokens=2) == (Outcome.GOOD, "")


def test_an_answer_of_reasoning_alone_is_good_and_has_no_first_answer_token() -> None:
    meter = metered(delta(reasoning="hm"), delta(reasoning="so"), USAGE, DONE)
    assert judge_stream(meter, 200, expected_tokens=2) == (Outcome.GOOD, "")
    assert (meter.ttft_seconds, meter.first_answer_seconds) == (1.0, None)
    assert meter.inter_token_seconds == [1.0]


def test_a_tool_call_is_an_answer() -> None:
    meter = metered(delta(tool_calls=[{"index": 0, "function": {"name": "f"}}]), USAGE, DONE)
    assert meter.first_answer_seconds == 1.0
    assert meter.text == ""


def test_comments_are_no_text() -> None:
    meter = metered(b": keep-alive\n\n", chunk("a"))
    assert meter.ttft_seconds == 2.0


def test_a_record_survives_its_file() -> None:
    record = RequestRecord(1.5, 0.0, "kind", "model", True, Outcome.GOOD, inter_token_seconds=[0.1])
    assert RequestRecord.from_json(record.as_json()) == record
