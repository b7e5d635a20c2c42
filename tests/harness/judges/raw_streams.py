"""Classifies a streamed chat completion by its bytes: whole, visibly broken, or wrong. It asks nobody."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

DONE = "[DONE]"
_BOUNDARY = re.compile(r"\r\n\r\n|\n\n|\r\r")


@dataclass
class RawStream:
    """The content of a chunked body.

    ``ended``: the terminal event was received. ``rest`` is the text after the last whole event.
    """

    events: list[Any] = field(default_factory=list)
    ended: bool = False
    rest: str = ""
    problems: list[str] = field(default_factory=list)


def parsed(body: bytes) -> RawStream:
    """Parse a body as it was on the wire; every event must be whole JSON or ``[DONE]``."""
    stream = RawStream()
    text, stream.ended = _unchunked(body)
    *events, stream.rest = _BOUNDARY.split(text.decode(errors="replace"))
    for event in events:
        _take(stream, event)
    if stream.ended and stream.rest:
        stream.problems.append(f"the body ends within an event: {stream.rest[:80]!r}")
    return stream


def _unchunked(body: bytes) -> tuple[bytes, bool]:
    """Return the body without chunk sizes, and whether the last chunk was received."""
    whole = b""
    while b"\r\n" in body:
        size, rest = body.split(b"\r\n", 1)
        length = int(size.split(b";")[0], 16)
        if not length:
            return whole, rest.endswith(b"\r\n")
        whole += rest[:length]
        body = rest[length + 2 :]
    return whole, False


def whole_body(body: bytes) -> bytes:
    """Return the body without chunk sizes; it must be complete and have no trailers."""
    whole = b""
    while size := int(body.split(b"\r\n", 1)[0], 16):
        start = body.index(b"\r\n") + 2
        whole, body = whole + body[start : start + size], body[start + size + 2 :]
    assert body == b"0\r\n\r\n"
    return whole


def _take(stream: RawStream, event: str) -> None:
    lines = [line for line in event.splitlines() if not line.startswith(":")]
    data = "\n".join(line.removeprefix("data:").removeprefix(" ") for line in lines)
    if not lines:
        return
    try:
        stream.events.append(DONE if data == DONE else json.loads(data))
    except json.JSONDecodeError:
        stream.problems.append(f"an event that is not JSON: {data[:80]!r}")


def judged(body: bytes, tokens: int) -> str:
    """ "whole": all ``tokens`` and the end; "broken": exactly one error event, last, and no end; else "wrong: why"."""
    stream = parsed(body)
    problems = list(stream.problems)
    errors = [number for number, event in enumerate(stream.events) if event != DONE and "error" in event]
    answered = [event for event in stream.events if event != DONE and "error" not in event]
    if errors:
        if errors != [len(stream.events) - 1]:
            problems.append(f"error events at {errors} of {len(stream.events)}")
        if stream.ended or DONE in stream.events:
            problems.append("an end after an error event")
        problems += _faults(answered, tokens, whole=False)
        return f"wrong: {problems}" if problems else "broken"
    if stream.events.count(DONE) != 1 or stream.events[-1] != DONE:
        problems.append(
            f"{stream.events.count(DONE)} [DONE] in {len(stream.events)} events, or not at the end"
        )
    if not stream.ended:
        problems.append("no end, and no error event that says so")
    problems += _faults(answered, tokens, whole=True)
    return f"wrong: {problems}" if problems else "whole"


def _faults(chunks: list[Any], tokens: int, *, whole: bool) -> list[str]:
    """Return what is wrong with the chunks of one choice; each chunk carries the token count so far."""
    faults = []
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")]
    texts = sum(bool(choice["delta"].get("content")) for choice in choices)
    if len({chunk["id"] for chunk in chunks}) > 1:
        faults.append("more than one id")
    if counts != sorted(counts) or texts > tokens:
        faults.append(f"{texts} texts, counts {counts}, of {tokens} tokens")
    if whole and (reasons != ["length"] or counts[-1:] != [tokens] or not texts):
        faults.append(f"finish reasons {reasons}, {counts[-1:]} of {tokens} tokens in {texts} texts")
    return faults
