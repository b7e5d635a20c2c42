"""The outcome of one request, determined from its bytes. Neither a status of 200 nor a clean end proves success."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """Outcome of a request, as observed by the client. Only ``good`` counts towards goodput."""

    GOOD = "good"
    ABORTED = "aborted"  # the workload's client disconnected on purpose
    REFUSED = "refused"  # a status the workload expects, such as 429 for an over-budget client
    FAILED_STATUS = "failed_status"
    ERROR_EVENT = "error_event"
    TRUNCATED = "truncated"  # the body ended without the terminal event, however cleanly
    TOO_FEW_TOKENS = "too_few_tokens"
    MALFORMED = "malformed"  # JSON that does not have the API's shape
    CONNECTION = "connection"

    @property
    def failed(self) -> bool:
        """Return whether a load gate counts this as a failure."""
        return self not in (Outcome.GOOD, Outcome.ABORTED, Outcome.REFUSED)


@dataclass(slots=True)
class RequestRecord:
    """One request as observed by the client. Times in seconds; ``sent_at`` is epoch seconds.

    ``ttft_seconds``, ``first_answer_seconds`` and ``total_seconds`` count from when the request was due, ``late_seconds``
    before it was sent: a user waits for a late generator too. The first token may be one of the model's reasoning;
    ``first_answer_seconds`` is the time to the first token of the answer itself, None for an answer of reasoning alone.
    """

    sent_at: float
    late_seconds: float
    workload_request: str
    model: str
    streamed: bool
    outcome: Outcome = Outcome.CONNECTION
    status: int = 0
    detail: str = ""
    request_id: str = ""
    backend: str = ""
    rule: str = ""
    reason: str = ""
    attempts: int = 0
    ttft_seconds: float | None = None
    first_answer_seconds: float | None = None
    total_seconds: float = 0.0
    inter_token_seconds: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def ended_at(self) -> float:
        """Return the end of the response in epoch seconds."""
        return self.sent_at - self.late_seconds + self.total_seconds

    def as_json(self) -> str:
        """Return the record as one line of JSON; it contains no prompt, answer or key."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "RequestRecord":
        """Parse a line that :meth:`as_json` wrote."""
        fields = json.loads(line)
        fields["outcome"] = Outcome(fields["outcome"])
        return cls(**fields)


class StreamMeter:
    """Reads a server-sent event stream event by event and keeps the times of its tokens.

    A token's time is when the first byte of its event was handed to :meth:`event`; several tokens
    may share an event, so inter-token times are gaps between events that carry text. Reasoning is text too, but
    ``first_answer_seconds`` and ``text`` leave it out.
    """

    def __init__(self, started_at: float, keep_text: bool = False) -> None:
        self._started_at = started_at
        self._parts: list[str] | None = [] if keep_text else None
        self._last_text_at: float | None = None
        self.ttft_seconds: float | None = None
        self.first_answer_seconds: float | None = None
        self.inter_token_seconds: list[float] = []
        self.text_events = 0
        self.done = False
        self.error = ""
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None

    @property
    def text(self) -> str:
        """Return the completion so far, if stored (a session's next turn repeats it)."""
        return "".join(self._parts or ())

    def event(self, event: bytes, now: float) -> None:
        """Take one event, its blank line included or not. ``now`` is on the clock of ``started_at``.

        Raises:
            TypeError, AttributeError: the JSON does not have the API's shape.
        """
        for line in event.splitlines():
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                self.done = True
            elif data:
                self._chunk(data, now)

    def _chunk(self, data: bytes, now: float) -> None:
        try:
            chunk = json.loads(data)
        except ValueError:
            self.error = "an event is not JSON"
            return
        if "error" in chunk:
            error = chunk["error"]
            self.error = str(error.get("code") or error.get("type")) if isinstance(error, dict) else "error"
            return
        if usage := chunk.get("usage"):
            self.prompt_tokens, self.completion_tokens = token_counts(usage)
        outputs = [_output_of(choice) for choice in chunk.get("choices") or ()]
        if any(any(output) for output in outputs):
            self.text_events += 1
            if self._parts is not None:
                self._parts.extend(output.text for output in outputs)
            if self.first_answer_seconds is None and any(o.text or o.calls_tool for o in outputs):
                self.first_answer_seconds = now - self._started_at
            if self._last_text_at is None:
                self.ttft_seconds = now - self._started_at
            else:
                self.inter_token_seconds.append(now - self._last_text_at)
            self._last_text_at = now


def token_counts(usage: Mapping[str, object]) -> tuple[int | None, int | None]:
    """Return (prompt, completion) tokens of an answer's ``usage``; a value that is not a whole number counts
    as absent.
    """
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (
        prompt if isinstance(prompt, int) else None,
        completion if isinstance(completion, int) else None,
    )


class _Output(NamedTuple):
    """The part of the completion in one choice of a chunk."""

    text: str
    reasons: bool = False
    calls_tool: bool = False


def _output_of(choice: dict[str, object]) -> _Output:
    """Return the output in a choice. Reasoning is ``reasoning``, in older engines ``reasoning_content``."""
    delta = choice.get("delta")
    if isinstance(delta, dict):
        reasons = bool(delta.get("reasoning") or delta.get("reasoning_content"))
        return _Output(str(delta.get("content") or ""), reasons, bool(delta.get("tool_calls")))
    return _Output(str(choice.get("text") or ""))


def judge_stream(meter: StreamMeter, status: int, expected_tokens: int | None) -> tuple[Outcome, str]:
    """Return the outcome of a stream that has ended, and its problem ("" if none).

    Args:
        meter: the events up to the end of the body, clean or not.
        status: the HTTP status.
        expected_tokens: how many completion tokens a complete answer has, or None if unknown.
    """
    if status != 200:
        return Outcome.FAILED_STATUS, f"status {status}"
    if meter.error:
        return Outcome.ERROR_EVENT, meter.error
    if not meter.done:
        return Outcome.TRUNCATED, f"no [DONE] after {meter.text_events} events with text"
    if expected_tokens is not None and meter.completion_tokens != expected_tokens:
        return Outcome.TOO_FEW_TOKENS, f"{meter.completion_tokens} tokens, expected {expected_tokens}"
    if meter.text_events == 0:
        return Outcome.TOO_FEW_TOKENS, "no text"
    return Outcome.GOOD, ""
