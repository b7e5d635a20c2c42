"""/v1/responses in the format of vLLM 0.32, streamed and unstreamed."""

import time
from collections.abc import Callable
from typing import Any

from engine_simulator.engine import Engine
from engine_simulator.event_streams import Event, finish, generation_of, new_id, stream
from engine_simulator.faults import Fault
from engine_simulator.generating import Output, Receive, Send

_UNSET = (
    "instructions metadata max_tool_calls previous_response_id prompt reasoning text top_logprobs user "
    "kv_transfer_params ec_transfer_params input_messages output_messages"
).split()


async def run(body: dict[str, Any], engine: Engine, events: "ResponseEvents") -> dict[str, Any]:
    """Return the unstreamed response."""
    text, output = await finish(generation_of(body, "input", "max_output_tokens", engine), engine)
    return events.finished(text, output)


async def responses_events(
    body: dict[str, Any],
    engine: Engine,
    fault: Fault | None,
    receive: Receive,
    send: Send,
    keep: Callable[[dict[str, Any], dict[str, Any]], None],
) -> None:
    """Send the event stream, from ``response.created`` to ``response.completed`` (also when it is incomplete).

    ``keep`` receives the request and the whole response.
    """
    generation = generation_of(body, "input", "max_output_tokens", engine)
    events = ResponseEvents(body, lambda response: keep(body, response))
    await stream(generation, engine, fault, receive, send, events)


class ResponseEvents:
    """The events of one response, and the whole response; ``ended`` receives it after its last event."""

    begins_at_once = True

    def __init__(
        self, body: dict[str, Any], ended: Callable[[dict[str, Any]], None] = lambda response: None
    ) -> None:
        self._ended = ended
        self._number = 0
        self._item = new_id("msg_")
        self._place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        self._head: dict[str, Any] = {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "model": body.get("model"),
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0,
            "background": bool(body.get("background")),
            "max_output_tokens": body.get("max_output_tokens") or 64,
            "service_tier": "auto",
            "truncation": "disabled",
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            **dict.fromkeys(_UNSET),
            "previous_response_id": body.get("previous_response_id"),
        }

    def first(self, output: Output) -> list[Event]:
        begun = self.unfinished("in_progress")
        item = {**self._message("in_progress"), "content": []}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", item=item, output_index=0),
            self._event("response.content_part.added", part=part, **self._place),
        ]

    def unfinished(self, status: str) -> dict[str, Any]:
        """Return the response before its output."""
        return {**self._head, "status": status, "output": [], "usage": None, "incomplete_details": None}

    def text(self, text: str) -> list[Event]:
        return [self._event("response.output_text.delta", delta=text, logprobs=[], **self._place)]

    def last(self, text: str, output: Output) -> list[Event]:
        item = {**self._message("completed"), "content": [_part(text)]}
        whole = self.finished(text, output)
        self._ended(whole)
        return [
            self._event("response.output_text.done", text=text, logprobs=[], **self._place),
            self._event("response.content_part.done", part=_part(text), **self._place),
            self._event("response.output_item.done", item=item, output_index=0),
            self._event("response.completed", response=whole),
        ]

    def error(self, message: str) -> list[Event]:
        return [self._event("error", code="InternalServerError", message=message, param=None)]

    def finished(self, text: str, output: Output) -> dict[str, Any]:
        """Return the whole response."""
        sequence = output.sequence
        prompt, generated = len(sequence.prompt_ids), sequence.generated
        cut = sequence.finished == "length"
        return {
            **self._head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [{**self._message("completed"), "content": [_part(text)]}],
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": {
                    "cached_tokens": sequence.cached_tokens,
                    "cache_write_tokens": 0,
                    "input_tokens_per_turn": [],
                    "cached_tokens_per_turn": [],
                },
                "output_tokens": generated,
                "output_tokens_details": {
                    "reasoning_tokens": 0,
                    "tool_output_tokens": 0,
                    "output_tokens_per_turn": [],
                    "tool_output_tokens_per_turn": [],
                },
                "total_tokens": prompt + generated,
            },
            "metrics": {**sequence.metrics_ms(), "speculative_decoding": None},
        }

    def _message(self, status: str) -> dict[str, Any]:
        return {"type": "message", "id": self._item, "role": "assistant", "status": status, "phase": None}

    def _event(self, kind: str, **more: Any) -> Event:
        event = {"type": kind, "sequence_number": self._number, **more}
        self._number += 1
        return event


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
