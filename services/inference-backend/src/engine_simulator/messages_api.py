"""/v1/messages (Anthropic's API), shaped as vLLM 0.32 shapes it, streamed and not."""

from typing import Any

from engine_simulator.engine import Engine
from engine_simulator.event_streams import Event, finish, generation_of, new_id, stream
from engine_simulator.generating import Output, Receive, Send


async def messages(body: dict[str, Any], engine: Engine) -> tuple[int, dict[str, Any]]:
    """The unstreamed answer: status and JSON."""
    text, output = await finish(generation_of(body, "messages", "max_tokens", engine), engine)
    return 200, {
        **_message(body),
        "content": [{"type": "text", "text": text}],
        "stop_reason": _reason(output),
        "usage": _used(output),
    }


async def messages_events(body: dict[str, Any], engine: Engine, receive: Receive, send: Send) -> None:
    """The event stream, from ``message_start`` to ``message_stop``."""
    generation = generation_of(body, "messages", "max_tokens", engine)
    await stream(generation, engine, receive, send, _Stream(body))


class _Stream:
    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def first(self, output: Output) -> list[Event]:
        used = {**_used(output), "output_tokens": 0}
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


def _message(body: dict[str, Any]) -> dict[str, Any]:
    return {"id": new_id("chatcmpl-"), "type": "message", "role": "assistant", "model": body.get("model")}


def _reason(output: Output) -> str:
    return "max_tokens" if output.sequence.finished == "length" else "end_turn"


def _used(output: Output) -> dict[str, int]:
    sequence = output.sequence
    return {"input_tokens": len(sequence.prompt_ids), "output_tokens": sequence.generated}
