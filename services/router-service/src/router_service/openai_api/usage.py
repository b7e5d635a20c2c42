"""Reads token counts and the engine's timing from the end of a response. Parses nothing else."""

from dataclasses import dataclass

import orjson

_MAX_OBJECT_BYTES = 8 * 1024
_USAGE = b'"usage"'
_METRICS = b'"metrics"'

_OUTSIDE = frozenset({"cache_read_input_tokens", "cache_creation_input_tokens"})
"""Prompt tokens of the Messages API that its ``input_tokens`` leaves out."""

_DETAILS = frozenset(
    {
        *("prompt_tokens_details", "input_tokens_details", "cache_read_input_tokens"),
        *("completion_tokens_details", "output_tokens_details"),
    }
)
"""Fields that break the totals down."""


@dataclass(slots=True)
class EngineReport:
    """Figures that an engine reported about one response; None if it did not report them.

    ``cached_tokens`` are prompt tokens from the prefix cache, ``reasoning_tokens`` completion tokens of the reasoning.
    ``queue_ms`` is the time from arrival in the engine to scheduling, ``prefill_ms`` from scheduling to the first
    token, ``decode_ms`` from the first token to the last (vLLM's ``--enable-per-request-metrics``).
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    queue_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None


def read_report(tail: bytes) -> EngineReport:
    """Read the last ``usage`` and ``metrics`` objects in ``tail``, the end of a stream or a body.

    Both are found as bytes: quotes inside a JSON string are escaped, so text written by a model cannot match. Numbers
    of the wrong type are ignored.
    """
    return _report(_last_object(tail, _USAGE), _last_object(tail, _METRICS))


def _report(usage: dict[str, object] | None, metrics: dict[str, object] | None) -> EngineReport:
    report = EngineReport()
    if usage is not None:
        completion = usage.get("completion_tokens", usage.get("output_tokens"))
        report.prompt_tokens = _prompt_tokens(usage)
        report.completion_tokens = completion if type(completion) is int else None
        if report.completion_tokens is None and report.prompt_tokens is not None:
            report.completion_tokens = 0  # Embeddings and rerank produce no completion tokens.
        if not _DETAILS.isdisjoint(usage):
            _read_details(usage, report)
    if metrics is not None:
        report.queue_ms = _number(metrics.get("queue_time_ms"))
        report.prefill_ms = _number(metrics.get("time_to_first_token_ms"))
        report.decode_ms = _number(metrics.get("generation_time_ms"))
    return report


def _read_details(usage: dict[str, object], report: EngineReport) -> None:
    report.cached_tokens = _detail(usage, ("prompt_tokens_details", "input_tokens_details"), "cached_tokens")
    if report.cached_tokens is None:
        report.cached_tokens = _count(usage.get("cache_read_input_tokens"))  # the Messages API
    report.reasoning_tokens = _detail(
        usage, ("completion_tokens_details", "output_tokens_details"), "reasoning_tokens"
    )


class ReportScanner:
    """Finds the last ``usage`` and ``metrics`` objects anywhere in a body that arrives in pieces.

    Stores the end of the latest piece and the two objects: at most twice :data:`_MAX_OBJECT_BYTES` bytes.
    """

    __slots__ = ("_before", "_metrics", "_usage")

    def __init__(self) -> None:
        self._before = b""
        self._usage: dict[str, object] | None = None
        self._metrics: dict[str, object] | None = None

    def feed(self, data: bytes) -> None:
        """Read the next piece."""
        window = self._before + data
        self._usage = _last_object(window, _USAGE) or self._usage
        self._metrics = _last_object(window, _METRICS) or self._metrics
        # A cut object begins within this many bytes, or is too long to be one of the two.
        self._before = window[-_MAX_OBJECT_BYTES:]

    def report(self) -> EngineReport:
        """Return the figures found so far."""
        return _report(self._usage, self._metrics)


def _prompt_tokens(usage: dict[str, object]) -> int | None:
    """Return all tokens of the prompt. The Messages API leaves tokens read from and written to the cache out of
    ``input_tokens``.
    """
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    if type(prompt) is not int:
        return None
    if _OUTSIDE.isdisjoint(usage):
        return prompt
    return prompt + sum(_count(usage.get(name)) or 0 for name in _OUTSIDE)


def _detail(usage: dict[str, object], names: tuple[str, ...], key: str) -> int | None:
    """Return a count of one of the objects ``names``: Chat and Completions, then Responses."""
    for name in names:
        details = usage.get(name)
        if isinstance(details, dict):
            return _count(details.get(key))
    return None


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _number(value: object) -> float | None:
    return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]


def _last_object(tail: bytes, key: bytes) -> dict[str, object] | None:
    """Return the object after the last ``key`` with an object as its value; later ``null`` values are skipped."""
    end = len(tail)
    while (at := tail.rfind(key, 0, end)) >= 0:
        end = at
        window = tail[at + len(key) : at + len(key) + _MAX_OBJECT_BYTES].lstrip(b": \t\r\n")
        if not window.startswith(b"{"):
            continue
        stop = 0
        while (stop := window.find(b"}", stop) + 1) > 0:
            if window.count(b"{", 0, stop) == window.count(b"}", 0, stop):
                try:
                    parsed = orjson.loads(window[:stop])
                except orjson.JSONDecodeError:
                    break
                return parsed if isinstance(parsed, dict) else None
    return None
