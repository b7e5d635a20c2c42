"""Continues a broken stream on another backend, so that the client sees one answer.

The text so far is sent back to be continued; what comes is rewritten to belong to the first answer: same
id, no second role, counts added up. Chunks are parsed only here, after something broke. It refuses
whatever it could not continue exactly in kind: tools, log probabilities, several choices, structured
output, penalties.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from router_service.openai_api.event_stream import split_events
from router_service.openai_api.usage import EngineReport
from router_service.pipeline.answer import Answer, End, Seam
from router_service.pipeline.job import Job
from router_service.routing.decision import Decision

MAX_RESUMES = 1
"""The text after a seam is not kept: an answer that breaks twice ends as an error."""

_RESUMABLE_ENDS = frozenset({End.BROKEN, End.ENGINE_ERROR, End.INCOMPLETE, End.IDLE_TIMEOUT, End.STALE})

_FORBIDDEN = (
    "tools", "functions", "logprobs", "top_logprobs", "prompt_logprobs", "response_format", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "min_tokens", "echo", "suffix", "logit_bias",
    "continue_final_message", "prompt_embeds", "use_beam_search",
)  # fmt: skip
"""Options whose effect depends on tokens that were already made; any truthy value forbids a resume."""


@dataclass(slots=True)
class Continuation:
    """The next attempt of a broken stream. ``finished`` is set when only the stream's end was missing."""

    body: bytes
    seam: Seam
    finished: bytes | None
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(slots=True)
class _SoFar:
    """What the client has of the answer, and the fields that its chunks share."""

    text: str
    shared: dict[str, Any]
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning: bool


def continuation(job: Job, decision: Decision, body: dict[str, Any], broken: Answer) -> Continuation | None:
    """How to continue, or None when this answer cannot be."""
    rule = decision.rule
    features = job.features
    events = broken.events
    if rule is None or not rule.resume or features is None or not features.stream or events is None:
        return None
    if broken.end not in _RESUMABLE_ENDS or not job.inbound.path.resumable or not _allowed(body):
        return None
    if len(job.resumes) >= MAX_RESUMES or not job.kept:
        return None
    chat = "messages" in body
    so_far = _read(b"".join(job.kept), chat)
    if so_far is None or so_far.reasoning or not so_far.text:
        return None
    limit_name = "max_completion_tokens" if type(body.get("max_completion_tokens")) is int else "max_tokens"
    limit = body.get(limit_name)
    made = so_far.completion_tokens
    wants_usage = not job.drops_usage(body)
    if so_far.finish_reason is not None:
        return _ended(so_far, chat, so_far.finish_reason, wants_usage, already=True)
    if type(limit) is int:
        if made is None:
            return None  # without counts the limit could be overrun
        if made >= limit:
            return _ended(so_far, chat, "length", wants_usage, already=False)
    again = dict(body)
    if chat:
        again["messages"] = [*body["messages"], {"role": "assistant", "content": so_far.text}]
        again["add_generation_prompt"] = False
        again["continue_final_message"] = True
    else:
        again["prompt"] = body["prompt"] + so_far.text
    if type(limit) is int and made is not None:
        again[limit_name] = limit - made
    seam = _Joined(so_far, chat)
    return Continuation(orjson.dumps(again), seam, None, so_far.prompt_tokens, made)


class _Joined(Seam):
    """Makes the second answer's events belong to the first: id and time, no role, counts added up."""

    def __init__(self, first: _SoFar, chat: bool) -> None:
        self._first = first
        self._chat = chat

    def feed(self, data: bytes) -> bytes:
        """Rewrite every event; one that says nothing new is dropped."""
        return b"".join(self._rewritten(event) for event in split_events(data))

    def total(self, report: EngineReport) -> EngineReport:
        """Counts of both parts. No timing: the engines' figures are about their own part only."""
        before, more = self._first.completion_tokens, report.completion_tokens
        made = None if before is None or more is None else before + more
        return EngineReport(self._first.prompt_tokens, made)

    def _rewritten(self, event: bytes) -> bytes:
        chunk = _json_of(event)
        if chunk is None:
            return event
        chunk.update(self._first.shared)
        self._count(chunk)
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta")
            if self._chat and isinstance(delta, dict):
                delta.pop("role", None)
                if not delta.get("content") and choice.get("finish_reason") is None:
                    return b""
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _count(self, chunk: dict[str, Any]) -> None:
        usage = chunk.get("usage")
        before = self._first
        if not isinstance(usage, dict) or before.completion_tokens is None or before.prompt_tokens is None:
            return
        usage["completion_tokens"] = usage.get("completion_tokens", 0) + before.completion_tokens
        usage["prompt_tokens"] = before.prompt_tokens
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]


def _ended(so_far: _SoFar, chat: bool, reason: str, wants_usage: bool, *, already: bool) -> Continuation:
    """The end that was missing: a finish reason (unless it came), the counts if asked for, `[DONE]`."""
    parts = []
    if not already:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        choice["delta" if chat else "text"] = {} if chat else ""
        parts.append(b"data: " + orjson.dumps({**so_far.shared, "choices": [choice]}) + b"\n\n")
    prompt, made = so_far.prompt_tokens, so_far.completion_tokens
    if wants_usage and prompt is not None and made is not None:
        usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
        parts.append(b"data: " + orjson.dumps({**so_far.shared, "choices": [], "usage": usage}) + b"\n\n")
    parts.append(b"data: [DONE]\n\n")
    return Continuation(b"", Seam(), b"".join(parts), prompt, made)


def _allowed(body: dict[str, Any]) -> bool:
    if any(body.get(name) for name in _FORBIDDEN):
        return False
    if any(body.get(name) not in (None, 1) for name in ("n", "best_of")):
        return False
    if body.get("stop"):
        return False  # a stop sequence could lie across the seam
    prompt = body.get("prompt")
    if prompt is not None:
        return isinstance(prompt, str)
    messages = body.get("messages")
    return isinstance(messages, list) and bool(messages)


def _read(kept: bytes, chat: bool) -> _SoFar | None:
    """The answer so far from its events; None when one of them is not what it should be."""
    texts: list[str] = []
    found = _SoFar("", {}, None, None, None, False)
    for event in split_events(kept):
        chunk = _json_of(event)
        if chunk is None:
            continue
        if not found.shared:
            found.shared = {
                name: chunk[name] for name in ("id", "created", "object", "model") if name in chunk
            }
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            found.prompt_tokens = usage.get("prompt_tokens")
            found.completion_tokens = usage.get("completion_tokens")
        for choice in chunk.get("choices") or ():
            part = choice.get("delta") or {} if chat else choice
            if part.get("tool_calls") or choice.get("index", 0) != 0:
                return None
            if part.get("reasoning_content") or part.get("reasoning"):
                found.reasoning = True
            text = part.get("content") if chat else part.get("text")
            if isinstance(text, str):
                texts.append(text)
            found.finish_reason = choice.get("finish_reason") or found.finish_reason
    found.text = "".join(texts)
    return found


def _json_of(event: bytes) -> dict[str, Any] | None:
    """The JSON object of a data event, or None for comments, `[DONE]` and others."""
    line = event.strip()
    if not line.startswith(b"data:"):
        return None
    try:
        parsed = orjson.loads(line[5:].strip())
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None
