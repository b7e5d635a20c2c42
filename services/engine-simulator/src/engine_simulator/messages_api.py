"""/v1/messages (Anthropic's API) in the format of vLLM 0.32, streamed and unstreamed."""

from typing import Any

from engine_simulator.engine import Engine
from engine_simulator.event_streams import Event, finish, generation_of, new_id, stream
from engine_simulator.faults import Fault
from engine_simulator.generating import Output, Receive, Send


async def messages(body: dict[str, Any], engine: Engine) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of the unstreamed response."""
    text, output = await finish(generation_of(body, "messages", "max_tokens", engine), engine)
    return 200, {
        **_message(body),
        "content": [{"type": "text", "text": text}],
        "stop_reason": _reason(output),
        "usage": _used(output),
    }


async def messages_events(
    body: dict[str, Any], engine: Engine, fault: Fault | None, receive: Receive, send: Send
) -> None:
    """Send the event stream, from ``message_start`` to ``message_stop``."""
    generation = generation_of(body, "messages", "max_tokens", engine)
    await stream(generation, engine, fault, receive, send, _Stream(body))


class _Stream:
    begins_at_once = False  # vLLM creates message_start from the first chunk of its chat stream.

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def first(self, output: Output) -> list[Event]:
        # The first chunk of the chat stream has no details: the whole prompt counts as input.
        used = {"input_tokens": len(output.sequence.prompt_ids), "output_tokens": 0}
        message = {
            **_message(self._body), "content": [], "stop_reason": None, "stop_sequence": None, "usage": used,
        }  # fmt: skip
        block = {"type": "text", "text": ""}
        return [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block},
        ]

    def text(self, text: str) -> list[Event]:
        delta = {"type": "text_delta", "text": text}
        return [{"type": "content_block_delta", "index": 0, "delta": delta}]

    def last(self, text: str, output: Output) -> list[Event]:
        delta = {"stop_reason": _reason(output), "stop_sequence": None}
        return [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": delta, "usage": _used(output)},
            {"type": "message_stop"},
        ]

    def error(self, message: str) -> list[Event]:
        return [{"type": "error", "error": {"type": "internal_error", "message": message}}]


def _message(body: dict[str, Any]) -> dict[str, Any]:
    return {"id": new_id("chatcmpl-"), "type": "message", "role": "assistant", "model": body.get("model")}


def _reason(output: Output) -> str:
    return "max_tokens" if output.sequence.finished == "length" else "end_turn"


def _used(output: Output) -> dict[str, int]:
    """Count as Anthropic defines it: ``input_tokens`` without the tokens read from and written to the cache."""
    sequence = output.sequence
    read, created = sequence.cached_tokens, sequence.created_cache_tokens
    return {
        "input_tokens": len(sequence.prompt_ids) - read - created,
        "output_tokens": sequence.generated,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": created,
    }
