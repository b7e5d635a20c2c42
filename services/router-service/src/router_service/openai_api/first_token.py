"""Distinguishes stream events with output from events that only announce it. Must not keep state."""

import re
from typing import Any

import orjson

from router_service.openai_api.event_stream import split_events
from router_service.openai_api.paths import InferencePath

_TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content)":\s?"[^"]')
"""Text in a chunk of chat or completions. Quotes inside JSON strings are escaped, so no model can imitate it."""

_EVENT = re.compile(rb"(?:\A|[\r\n])event: ?([a-z_.]+)")

_ANNOUNCEMENTS = frozenset(
    {
        *("response.created", "response.queued", "response.in_progress", "response.content_part.added"),
        *("response.reasoning_part.added", "response.reasoning_summary_part.added"),
        *("message_start", "ping"),
    }
)
"""Events of Responses and Messages that come before any token."""

_OPENINGS = {"response.output_item.added": "item", "content_block_start": "content_block"}
"""Events that announce a part, with the part's key. A tool's part begins with its name, which is output."""

_EMPTY_KINDS = frozenset({"message", "reasoning", "text", "thinking"})


def carries_output(path: InferencePath, block: bytes) -> bool:
    """Return whether the complete events in ``block`` contain output of the model, or the end of the response.

    Events without output are chat's chunk with only the role, ``response.created`` and similar events,
    ``message_start``, ``ping``, and comments. An event of an unknown kind counts as output.
    """
    if path.usage_option:
        return _TEXT.search(block) is not None or any(map(_chunk_carries_output, split_events(block)))
    return any(map(_event_carries_output, split_events(block)))


_ANSWER = re.compile(rb'"(?:content|text|refusal)":\s?"[^"]|"(?:tool_calls":\s?\[\s?|function_call":\s?)\{')
"""Answer text or a tool call in a chunk of chat or completions; thoughts are in other fields."""

_NAMED_ANSWER = re.compile(
    rb'"type":\s?"(?:response\.(?:output_text|refusal|function_call_arguments|mcp_call_arguments|custom_tool_call_input)'
    rb'\.delta|text_delta|input_json_delta|tool_use)"'
)
"""Answer text or a tool call in an event of Responses or Messages."""


def carries_answer(path: InferencePath, block: bytes) -> bool:
    """Return whether whole events in ``block`` hold a token of the answer: text or a tool call, not a thought.

    Thoughts are vLLM's ``reasoning`` and ``reasoning_content`` deltas, the ``response.reasoning*`` events of Responses
    and the ``thinking_delta`` of Messages.
    """
    return (_ANSWER if path.usage_option else _NAMED_ANSWER).search(block) is not None


def _chunk_carries_output(event: bytes) -> bool:
    """Return whether a chunk of chat or completions contains output."""
    data = _data(event)
    if data is None:
        return False
    chunk = _object(data)
    choices = chunk.get("choices") if chunk is not None else None
    if not isinstance(choices, list):
        return True
    for choice in choices:
        if not isinstance(choice, dict) or choice.get("finish_reason") is not None:
            return True
        part = choice.get("delta", choice)
        if not isinstance(part, dict):
            return True
        if any(part.get(key) for key in part if key not in ("role", "index", "logprobs", "token_ids")):
            return True
    return False


def _event_carries_output(event: bytes) -> bool:
    """Return whether a named event of Responses or Messages contains output."""
    named = _EVENT.search(event)
    name = named.group(1).decode("ascii") if named is not None else ""
    if name in _ANNOUNCEMENTS:
        return False
    data = _data(event)
    if data is None:
        return False
    if name and name not in _OPENINGS:
        return True
    parsed = _object(data)
    if parsed is None:
        return True
    kind = name or parsed.get("type")
    if kind in _ANNOUNCEMENTS:
        return False
    if kind not in _OPENINGS:
        return True
    part = parsed.get(_OPENINGS[kind])
    if not isinstance(part, dict) or part.get("type") not in _EMPTY_KINDS:
        return True
    return bool(part.get("text") or part.get("thinking") or part.get("content"))


def _data(event: bytes) -> bytes | None:
    """Return the data line of an event; None for comments and blank lines."""
    for line in event.splitlines():
        if line.startswith(b"data:"):
            return line[5:].strip()
    return None


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None
