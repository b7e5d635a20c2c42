"""Counts the tokens that a stream has delivered, for streams that end before the engine reports them.

Most chat and completion chunks report the usage so far, so the last chunk is enough there. Two kinds need a count: several
choices, because each chunk reports only its own choice, and the Messages and Responses APIs, whose chunks report nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from router_service.openai_api.event_stream import split_events
from router_service.openai_api.paths import InferencePath
from router_service.openai_api.usage import EngineReport, read_report

PROMPT_BYTES_PER_TOKEN = 3
"""Bytes of a request's body that count as one prompt token where no prompt tokens are known; the edge's default."""

DELTA_BYTES_PER_TOKEN = 8
"""An event with more text than this counts as several tokens: engines may put several tokens into one event."""

# Responses: "delta":"text". Messages: "delta":{"type":"text_delta","text":"text"}.
_DELTA = re.compile(
    rb'"delta":\s?(?:\{"type":\s?"[a-z_]+_delta",\s?"(?:text|thinking|partial_json)":\s?)?"((?:[^"\\]++|\\.)*+)"'
)


class EventTokens:
    """Counts the deltas of a Messages or Responses stream: one token each, more if their text is long."""

    __slots__ = ("_deltas", "_prompt_tokens", "_text_bytes")

    def __init__(self) -> None:
        self._deltas = 0
        self._text_bytes = 0
        self._prompt_tokens: int | None = None

    def feed(self, block: bytes) -> None:
        """Count a block of whole events."""
        for delta in _DELTA.finditer(block):
            self._deltas += 1
            self._text_bytes += delta.end(1) - delta.start(1)
        if self._prompt_tokens is None and b'"input_tokens"' in block:
            self._prompt_tokens = read_report(block).prompt_tokens

    def total(self, report: EngineReport, body_bytes: int) -> int | None:
        """Return the tokens of the prompt and of the deltas; None if no delta was delivered.

        ``report`` is what the end of the stream reported, ``body_bytes`` the size of the request's body.
        """
        if not self._deltas:
            return None
        counted = max(self._deltas, -(-self._text_bytes // DELTA_BYTES_PER_TOKEN))
        prompt = self._prompt_tokens
        if prompt is None:
            prompt = report.prompt_tokens
        if prompt is None:
            prompt = estimated_prompt_tokens(body_bytes)
        return prompt + max(counted, report.completion_tokens or 0)


class ChoiceTokens:
    """Adds up the usage of a stream with ``choices`` for each of ``prompts`` prompts. Reads every event."""

    __slots__ = ("_choices", "_completion_tokens", "_prompt_tokens", "_prompts")

    def __init__(self, choices: int, prompts: int) -> None:
        self._choices = choices
        self._prompts = prompts
        self._completion_tokens: dict[int, int] = {}
        self._prompt_tokens: dict[int, int] = {}

    def feed(self, block: bytes) -> None:
        """Read the usage of every event in a block of whole events."""
        for event in split_events(block):
            at = event.find(b'{"')
            if at < 0:
                continue
            try:
                chunk = orjson.loads(event[at:])
            except orjson.JSONDecodeError:
                continue
            usage, choices = chunk.get("usage"), chunk.get("choices")
            if not isinstance(usage, dict) or not isinstance(choices, list):
                continue
            for choice in choices:
                index = choice.get("index") if isinstance(choice, dict) else None
                prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
                if type(index) is int and type(prompt) is int and type(completion) is int:
                    self._completion_tokens[index] = completion
                    self._prompt_tokens[index // self._choices] = prompt

    def total(self, report: EngineReport, body_bytes: int) -> int | None:
        """Return the tokens of all prompts and choices; None if no event reported its usage.

        Prompts of which no event has arrived are estimated by ``body_bytes``, the size of the request's body.
        """
        if not self._completion_tokens:
            return None
        prompt = sum(self._prompt_tokens.values())
        if len(self._prompt_tokens) < self._prompts:
            prompt = max(prompt, estimated_prompt_tokens(body_bytes))
        return prompt + sum(self._completion_tokens.values())


DeliveredTokens = EventTokens | ChoiceTokens


def delivered_tokens(path: InferencePath, body: Mapping[str, Any]) -> DeliveredTokens | None:
    """Return the counter for a stream of ``path``; None if its last event reports the usage so far."""
    if not path.terminals:
        return None
    if not path.usage_option:
        return EventTokens()
    choices = body.get("n")
    choices = choices if type(choices) is int and choices > 1 else 1
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    prompts = len(prompt) if several and isinstance(prompt, list) else 1
    return ChoiceTokens(choices, prompts) if choices * prompts > 1 else None


def estimated_prompt_tokens(body_bytes: int) -> int:
    """Return the prompt tokens of a body of this size, as the edge estimates them."""
    return -(-body_bytes // PROMPT_BYTES_PER_TOKEN)
