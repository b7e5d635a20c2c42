"""Reads token counts and the engine's own timing from the end of an answer; parses nothing else."""

from dataclasses import dataclass

import orjson

TAIL_BYTES = 64 * 1024
"""What is enough of the end of an answer that is not held to find its counts."""

_MAX_OBJECT_BYTES = 8 * 1024


@dataclass(slots=True)
class EngineReport:
    """What an engine said about one answer; None where it said nothing.

    ``queue_ms`` runs from arrival in the engine to scheduling, ``prefill_ms`` from scheduling to the
    first token, ``decode_ms`` from there to the last (vLLM's ``--enable-per-request-metrics``).
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    queue_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None


def read_report(tail: bytes) -> EngineReport:
    """Read the last ``usage`` and ``metrics`` objects in ``tail``, the end of a stream or a body, or all of it.

    They are found as bytes: inside a JSON string every quote is escaped, so text written by a model
    cannot look like either. Numbers of the wrong type are ignored.
    """
    report = EngineReport()
    usage = _last_object(tail, b'"usage"')
    if usage is not None:
        prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
        completion = usage.get("completion_tokens", usage.get("output_tokens"))
        report.prompt_tokens = prompt if type(prompt) is int else None
        report.completion_tokens = completion if type(completion) is int else None
        if report.completion_tokens is None and report.prompt_tokens is not None:
            report.completion_tokens = 0  # embeddings and rerank produce none
    metrics = _last_object(tail, b'"metrics"')
    if metrics is not None:
        report.queue_ms = _number(metrics.get("queue_time_ms"))
        report.prefill_ms = _number(metrics.get("time_to_first_token_ms"))
        report.decode_ms = _number(metrics.get("generation_time_ms"))
    return report


def _number(value: object) -> float | None:
    return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]


def _last_object(tail: bytes, key: bytes) -> dict[str, object] | None:
    """The object after the last ``key`` whose value is one; a ``null`` before it is skipped."""
    end = len(tail)
    while (at := tail.rfind(key, 0, end)) >= 0:
        end = at
        window = tail[at + len(key) : at + len(key) + _MAX_OBJECT_BYTES]
        start = 0
        while start < len(window) and window[start] in b": \t\r\n":
            start += 1
        if window[start : start + 1] != b"{":
            continue
        stop = start
        while (stop := window.find(b"}", stop) + 1) > 0:
            if window.count(b"{", start, stop) == window.count(b"}", start, stop):
                try:
                    parsed = orjson.loads(window[start:stop])
                except orjson.JSONDecodeError:
                    break
                return parsed if isinstance(parsed, dict) else None
    return None
