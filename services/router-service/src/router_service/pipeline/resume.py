"""Continues a broken stream on another backend, so that the client receives one response.

The router sends the text so far to the other backend to be continued. It rewrites the new events to match the
first response: same id, no second role, summed token counts. Chunks are parsed only here, after a failure. It
refuses requests that cannot be continued exactly: tools, log probabilities, several choices, structured
output, penalties.

**The seam.** Text cut inside a word re-tokenizes differently, and a chat template may trim trailing white
space. For a greedy response (temperature 0) the seam is therefore moved back to the last word that began with
a space. The other engine repeats that tail, and the router drops it while it equals the client's text. If it
differs, the whole text is sent instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from router_service.openai_api.event_stream import split_events
from router_service.openai_api.usage import EngineReport
from router_service.pipeline.answer import Answer
from router_service.pipeline.ends import End
from router_service.pipeline.job import Job
from router_service.pipeline.recipient import Seam
from router_service.routing.decision import Decision

MAX_MADE_AGAIN = 256
"""Largest number of chunks that the other engine may repeat before the client receives new text."""

CHAT_PATH = "/v1/chat/completions"

_RESUMABLE_ENDS = frozenset({End.BROKEN, End.MALFORMED, End.ENGINE_ERROR, End.INCOMPLETE, End.IDLE_TIMEOUT})

_FORBIDDEN = (
    "tools", "functions", "top_logprobs", "prompt_logprobs", "guided_json", "guided_regex", "guided_choice",
    "guided_grammar", "structured_outputs", "presence_penalty", "frequency_penalty", "min_tokens", "echo",
    "suffix", "logit_bias", "continue_final_message", "prompt_embeds", "use_beam_search", "bad_words",
    "truncate_prompt_tokens", "return_token_ids",
)  # fmt: skip
"""Options whose effect depends on the tokens so far; any truthy value rules out a resume."""


@dataclass(slots=True)
class Continuation:
    """The next attempt of a broken stream. ``finished`` is set if only the end of the stream was missing."""

    body: bytes
    seam: Seam
    finished: bytes | None


@dataclass(slots=True)
class _SoFar:
    """The part of the response that the client has, and the fields that its chunks share.

    ``pieces`` are the texts of its chunks, ``counts`` the completion tokens that each chunk reported.
    """

    pieces: list[str] = field(default_factory=list)
    counts: list[int | None] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning: bool = False


def continuation(
    job: Job, decision: Decision, body: dict[str, Any], broken: Answer, *, back: bool = True
) -> Continuation | None:
    """Return how to continue, or None if this response cannot be resumed.

    ``back`` allows the seam to move back to the start of a word.
    """
    rule = decision.rule
    features = job.features
    events = broken.events
    if rule is None or not rule.resume or features is None or not features.stream or events is None:
        return None
    if broken.end not in _RESUMABLE_ENDS or not job.inbound.path.resumable:
        return None
    if events.oversized:
        return None  # The client has part of an event, and nothing can complete it.
    if not job.kept:
        return None
    chat = job.inbound.path.path == CHAT_PATH
    body = {**body, **(job.engine_fields or {})}
    if not _allowed(body, chat):
        return None
    so_far = _read(b"".join(job.kept), chat)
    if so_far is None or so_far.reasoning:
        return None
    if so_far.finish_reason is not None:
        return _ended(so_far, chat, so_far.finish_reason, not job.drops_usage(body), already=True)
    limit_name = "max_completion_tokens" if type(body.get("max_completion_tokens")) is int else "max_tokens"
    limit = body.get(limit_name)
    greedy = body.get("temperature") == 0 and back
    stops = _stops(body)
    if stops and len(so_far.pieces) > MAX_MADE_AGAIN:
        greedy = False  # The tail is too long to repeat: continue as for a sampled response.
    at = _seam_at(so_far, greedy, bool(stops))
    made = so_far.counts[at - 1] if at else 0
    if type(limit) is int:
        if made is None:
            return None  # Without counts the continuation could exceed the limit.
        if made >= limit:
            return _ended(so_far, chat, "length", not job.drops_usage(body), already=False)
    try:
        again = _again(body, chat, "".join(so_far.pieces[:at]))
        if type(limit) is int and made is not None:
            again[limit_name] = limit - made
        sent = orjson.dumps(again)
    except orjson.JSONEncodeError:
        return None  # Nested too deeply to serialize again.
    seam = _Joined(so_far, chat, made, "".join(so_far.pieces[at:]), exact=greedy)
    if stops and not greedy and any(so_far.pieces):
        seam.watch(stops, "".join(so_far.pieces), wants_usage=not job.drops_usage(body))
    return Continuation(sent, seam, None)


def _seam_at(so_far: _SoFar, greedy: bool, stop: bool) -> int:
    """Return how many of the pieces to send to the other engine. It repeats the remaining ones.

    For a greedy response: up to the last word that began with a space, or 0, which repeats the original
    request. With stop sequences only 0 is exact: an engine holds back text that may begin a stop sequence, so
    its counts are ahead of its text. Otherwise: everything except trailing white space.
    """
    pieces = so_far.pieces
    if not any(pieces):
        return 0  # The client has no text yet, only the role or held-back text.
    if stop and greedy:
        return 0
    if greedy:
        for at in range(len(pieces) - 1, max(0, len(pieces) - MAX_MADE_AGAIN) - 1, -1):
            if at == 0 or (_begins_a_word(pieces, at) and so_far.counts[at - 1] is not None):
                return at
    at = len(pieces)
    while at and not pieces[at - 1].strip():
        at -= 1
    return at


def _stops(body: dict[str, Any]) -> list[str]:
    """Return the request's stop sequences."""
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    return [one for one in stops if isinstance(one, str) and one]


def _begins_a_word(pieces: Sequence[str], at: int) -> bool:
    """Return whether the tokens before piece ``at`` do not depend on what follows. A space and a letter
    ensure that.
    """
    before, piece = pieces[at - 1], pieces[at]
    return (
        len(piece) > 1
        and piece[0] == " "
        and piece[1].isalnum()
        and bool(before)
        and not before[-1].isspace()
    )


def _again(body: dict[str, Any], chat: bool, text: str) -> dict[str, Any]:
    """Return the request for the text after ``text``; without text, the original request."""
    again = dict(body)
    if not text:
        return again
    if chat:
        again["messages"] = [*body["messages"], {"role": "assistant", "content": text}]
        again["add_generation_prompt"] = False
        again["continue_final_message"] = True
    else:
        again["prompt"] = body["prompt"] + text
    return again


class _Joined(Seam):
    """Rewrites the second response's events to match the first: id and time, no role, summed counts.

    ``made`` is the token count of the text sent to the engine, ``tail`` the client's text after it. An
    ``exact`` tail must be repeated and is dropped; otherwise the tail is white space, and leading white space
    is dropped.
    """

    def __init__(self, first: _SoFar, chat: bool, made: int | None, tail: str, *, exact: bool) -> None:
        super().__init__()
        self._first = first
        self._chat = chat
        self._made = made
        self._tail = tail
        self._exact = exact
        self._stops: list[str] = []
        self._before = ""
        self._held = ""
        self._wants_usage = False

    def watch(self, stops: list[str], text: str, *, wants_usage: bool) -> None:
        """Search for a stop sequence that begins in ``text`` and ends after the seam; neither engine sees all
        of it.
        """
        longest = max(map(len, stops)) - 1
        if longest:
            self._stops = stops
            self._before = text[-longest:]
            self._wants_usage = wants_usage

    def feed(self, data: bytes) -> bytes:
        """Rewrite every event; drop an event that adds nothing."""
        found = []
        for event in split_events(data):
            found.append(self._rewritten(event))
            if self.diverged:
                return b""  # Nothing of the tail was repeated yet, so nothing was written.
            if self.over:
                break
        return b"".join(found)

    def total(self, report: EngineReport) -> EngineReport:
        """Return the counts of both parts, without timing: each engine's timing covers only its own part."""
        before, more = self._made, report.completion_tokens
        made = None if before is None or more is None else before + more
        prompt = self._first.prompt_tokens
        if before == 0 and prompt is None:
            prompt = report.prompt_tokens  # The original request was repeated.
        return EngineReport(prompt, made)

    def _rewritten(self, event: bytes) -> bytes:
        chunk = _json_of(event)
        if chunk is None:
            self.diverged = self.diverged or (self._exact and bool(self._tail) and b"[DONE]" in event)
            return event
        chunk.update(self._first.shared)
        usage = chunk.get("usage")
        if isinstance(usage, dict) and not self._count(usage):
            del chunk["usage"]  # These counts cover only the second part, and no better ones exist.
            if not chunk.get("choices"):
                return b""
        for choice in chunk.get("choices") or ():
            part = choice.get("delta") if self._chat else choice
            if not isinstance(part, dict):
                continue
            if self._chat:
                part.pop("role", None)
            key = "content" if self._chat else "text"
            had = part.get(key) or ""
            new = self._without_tail(had)
            if self._before:
                new = self._checked(new, last=choice.get("finish_reason") is not None)
                if self.over:
                    part[key], choice["finish_reason"] = "", "stop"
                    return self._end(chunk)
            if new != had:
                part[key] = new
            if choice.get("finish_reason") is not None:
                self.diverged = self.diverged or (self._exact and bool(self._tail))
            elif not new and (self._chat or new != had):
                return b""
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _without_tail(self, text: str) -> str:
        tail = self._tail
        if not tail or not text:
            return text
        if not self._exact:
            text = text.lstrip()
            if text:
                self._tail = ""
            return text
        if tail.startswith(text):
            self._tail = tail[len(text) :]
            return ""
        if text.startswith(tail):
            self._tail = ""
            return text[len(tail) :]
        self.diverged = True
        return text

    def _checked(self, text: str, *, last: bool) -> str:
        """Hold text back while a stop sequence may cross the seam; set `over` when one does."""
        before, held = self._before, self._held + text
        for stop in self._stops:
            if 0 <= (before + held).find(stop) < len(before):
                self.over = True
                return ""
        if len(held) < len(before) and not last:
            self._held = held
            return ""
        self._before = self._held = ""
        return held

    def _end(self, chunk: dict[str, Any]) -> bytes:
        """Return the final events of a response that the router ends."""
        usage = chunk.get("usage")
        found = b"data: " + orjson.dumps(chunk) + b"\n\n"
        if self._wants_usage and usage is not None:
            found += b"data: " + orjson.dumps({**self._first.shared, "choices": [], "usage": usage}) + b"\n\n"
        return found + b"data: [DONE]\n\n"

    def _count(self, usage: dict[str, Any]) -> bool:
        """Change the counts to those of the whole response; return False if they are unknown."""
        if self._made == 0:
            return True  # The original request was repeated.
        prompt = self._first.prompt_tokens
        if self._made is None or prompt is None:
            return False
        usage["completion_tokens"] = usage.get("completion_tokens", 0) + self._made
        usage["prompt_tokens"] = prompt
        usage["total_tokens"] = prompt + usage["completion_tokens"]
        return True


def _ended(so_far: _SoFar, chat: bool, reason: str, wants_usage: bool, *, already: bool) -> Continuation:
    """Return the missing end: a finish reason unless it was sent, the counts if requested, `[DONE]`."""
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
    return Continuation(b"", Seam(), b"".join(parts))


def _allowed(body: dict[str, Any], chat: bool) -> bool:
    if any(body.get(name) for name in _FORBIDDEN):
        return False
    if any(body.get(name) not in (None, 1) for name in ("n", "best_of", "repetition_penalty")):
        return False
    logprobs = body.get("logprobs")
    if (logprobs is not None and logprobs is not False) or body.get("add_generation_prompt") is False:
        return False
    form = body.get("response_format")
    if form and not (isinstance(form, dict) and form.get("type") == "text"):
        return False
    if not chat:
        return isinstance(body.get("prompt"), str)
    messages = body.get("messages")
    return isinstance(messages, list) and bool(messages)


def _read(kept: bytes, chat: bool) -> _SoFar | None:
    """Parse the response so far from its events; return None if one of them is invalid."""
    found = _SoFar()
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
            if isinstance(text, str) and (text or not part.get("role")):
                found.pieces.append(text)
                found.counts.append(found.completion_tokens if isinstance(usage, dict) else None)
            found.finish_reason = choice.get("finish_reason") or found.finish_reason
    return found


def _json_of(event: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a data event, or None for comments, `[DONE]` and others."""
    line = event.strip()
    if not line.startswith(b"data:"):
        return None
    try:
        parsed = orjson.loads(line[5:].strip())
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None
