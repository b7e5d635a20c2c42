"""The bytes of answers, shaped as vLLM 0.32 shapes them with per-request metrics and forced usage on."""

from typing import Any

import orjson

from engine_simulator.engine import Sequence
from engine_simulator.requests import Generation

DONE = b"data: [DONE]\n\n"


def usage(sequence: Sequence) -> dict[str, Any]:
    """Tokens so far."""
    prompt = len(sequence.prompt_ids)
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + sequence.generated,
        "completion_tokens": sequence.generated,
        "prompt_tokens_details": None,
    }


class ChunkWriter:
    """Builds the events of one stream; the parts that never change are built once."""

    def __init__(self, generation: Generation, sequence: Sequence) -> None:
        chat = generation.kind == "chat"
        kind = "chat.completion.chunk" if chat else "text_completion"
        head = orjson.dumps(
            {
                "id": generation.id,
                "object": kind,
                "created": generation.created,
                "model": generation.model,
            }
        )
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._chat = chat
        self._sequence = sequence
        self._token_ids = generation.return_token_ids
        self._prompt_ids = sequence.prompt_ids if generation.return_token_ids else None

    def role(self) -> bytes:
        """The first event of a chat: the role, no text."""
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        more = b"" if self._prompt_ids is None else b',"prompt_token_ids":' + orjson.dumps(self._prompt_ids)
        return self._event(orjson.dumps(choice), more)

    def text(self, text: str, ids: list[int], finish: str | None, stop: str | None = None) -> bytes:
        """Some text, and the reason if it is the last."""
        choice: dict[str, Any]
        if self._chat:
            choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
        else:
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        if finish is not None or not self._chat:
            choice["stop_reason"] = stop
        choice["token_ids"] = ids if self._token_ids else None
        return self._event(orjson.dumps(choice))

    def end(self) -> bytes:
        """Usage and the engine's timing, then the terminal event."""
        more = b',"metrics":' + orjson.dumps(self._sequence.metrics_ms())
        return self._event(b"", more) + DONE

    def _event(self, choice: bytes, more: bytes = b"") -> bytes:
        sequence = self._sequence
        prompt, generated = len(sequence.prompt_ids), sequence.generated
        return b'%b%b],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}%b}\n\n' % (
            self._head,
            choice,
            prompt,
            prompt + generated,
            generated,
            more,
        )


def whole_answer(
    generation: Generation, sequence: Sequence, text: str, ids: list[int], finish: str, stop: str | None
) -> bytes:
    """The one JSON of an unstreamed generation."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish, "stop_reason": stop}
    if generation.kind == "chat":
        choice["message"] = {
            "role": "assistant",
            "content": text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "tool_calls": [],
            "reasoning": None,
        }
    else:
        choice["text"] = text
        choice["prompt_logprobs"] = None
    choice["token_ids"] = ids if generation.return_token_ids else None
    answer = {
        "id": generation.id,
        "object": "chat.completion" if generation.kind == "chat" else "text_completion",
        "created": generation.created,
        "model": generation.model,
        "choices": [choice],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": usage(sequence),
        "prompt_token_ids": sequence.prompt_ids if generation.return_token_ids else None,
        "kv_transfer_params": None,
        "metrics": sequence.metrics_ms(),
    }
    return orjson.dumps(answer)
