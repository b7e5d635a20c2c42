"""The stream classifier of the soak and random abort tests: whole streams, broken streams, and false ends."""

import json

import pytest

from harness.judges.raw_streams import judged

DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"dead"}}\n\n'
END = b"0\r\n\r\n"


def chunk(number: int, last: bool = False) -> bytes:
    choice = {"index": 0, "delta": {"content": "data: [DONE]"}, "finish_reason": "length" if last else None}
    return (
        b"data: "
        + json.dumps({"id": "1", "choices": [choice], "usage": {"completion_tokens": number}}).encode()
        + b"\n\n"
    )


def wire(*pieces: bytes, end: bytes = END) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


ALL = chunk(1) + chunk(2, last=True)


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (wire(ALL + DONE), "whole"),
        (wire(ALL[:9], b": comment\n\n".join([ALL[9:], b""]), DONE), "whole"),
        (wire(chunk(1), ERROR, end=b""), "broken"),
        (wire(ERROR, end=b""), "broken"),
        (wire(chunk(1), end=b""), "wrong"),
        (wire(chunk(1)), "wrong"),
        (wire(chunk(1) + DONE), "wrong"),
        (wire(ALL), "wrong"),
        (wire(ALL, DONE, end=b""), "wrong"),
        (wire(ALL, DONE, DONE), "wrong"),
        (wire(ALL, DONE, b"data: {"), "wrong"),
        (wire(chunk(1)[:-9] + b"\n\n", chunk(2, last=True), DONE), "wrong"),
        (wire(chunk(1, last=True), DONE), "wrong"),
        (wire(ALL, chunk(2), DONE), "wrong"),
        (wire(chunk(1), ERROR), "wrong"),
        (wire(chunk(1), ERROR, DONE, end=b""), "wrong"),
        (wire(chunk(1), ERROR, ERROR, end=b""), "wrong"),
        (wire(ERROR, chunk(1), end=b""), "wrong"),
    ],
)
def test_a_stream_is_judged_by_its_events(body: bytes, verdict: str) -> None:
    assert judged(body, 2).split(":")[0] == verdict
