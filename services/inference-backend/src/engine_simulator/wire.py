"""The bytes of answers, shaped as vLLM 0.32 shapes them with per-request metrics and forced usage on."""

from typing import Any

import orjson

from engine_simulator.engine import Sequence
from engine_simulator.probabilities import chat_logprobs, completion_logprobs
from engine_simulator.requests import Generation

DONE = b"data: [DONE]\n\n"
FINGERPRINT = "vllm-0.32.0-simulated"


def usage(sequence: Sequence) -> dict[str, Any]:
    """Tokens so far."""
    prompt = len(sequence.prompt_ids)
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + sequence.generated,
        "completion_tokens": sequence.generated,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def logprobs(generation: Generation, ids: list[int], offset: int) -> dict[str, Any] | None:
    """What the client asked to know of the tokens ``ids``; ``offset`` characters were answered before them."""
    if generation.logprobs is None:
        return None
    if generation.kind == "chat":
        return chat_logprobs(ids, generation.logprobs)
    return completion_logprobs(ids, offset)


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
        self._generation = generation
        self._sequence = sequence
        self._details = b',"completion_tokens_details":null' if chat else b""
        self._token_ids = generation.return_token_ids
        self._answered = 0

    def role(self) -> bytes:
        """The first event of a chat: the role, no text."""
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        prompt_ids = self._sequence.prompt_ids if self._token_ids else None
        more = b',"prompt_token_ids":%b,"prompt_text":null' % orjson.dumps(prompt_ids)
        return self._event(orjson.dumps(choice), more, self._details)

    def text(self, text: str, ids: list[int], finish: str | None, stop: str | None = None) -> bytes:
        """Some text, and the reason if it is the last."""
        known = logprobs(self._generation, ids, self._answered)
        self._answered += len(text)
        choice: dict[str, Any]
        if self._chat:
            choice = {"index": 0, "delta": {"content": text}, "logprobs": known, "finish_reason": finish}
            if finish is not None:
                choice["stop_reason"] = stop
        else:
            choice = {
                "index": 0,
                "text": text,
                "logprobs": known,
                "finish_reason": finish,
                "stop_reason": stop,
                "prompt_token_ids": None,
            }
        choice["token_ids"] = ids if self._token_ids else None
        return self._event(orjson.dumps(choice), b"", self._details)

    def end(self) -> bytes:
        """Usage and the engine's timing, then the terminal event."""
        more = b',"system_fingerprint":"%b","metrics":%b' % (
            FINGERPRINT.encode(),
            orjson.dumps(self._sequence.metrics_ms()),
        )
        return self._event(b"", more) + DONE

    def _event(self, choice: bytes, more: bytes = b"", details: bytes = b"") -> bytes:
        sequence = self._sequence
        prompt, generated = len(sequence.prompt_ids), sequence.generated
        return b'%b%b],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}%b}\n\n' % (
            self._head,
            choice,
            prompt,
            prompt + generated,
            generated,
            details,
            more,
        )


def whole_answer(
    generation: Generation, sequence: Sequence, text: str, ids: list[int], finish: str, stop: str | None
) -> bytes:
    """The one JSON of an unstreamed generation."""
    chat = generation.kind == "chat"
    choice: dict[str, Any] = {
        "index": 0,
        "logprobs": logprobs(generation, ids, 0),
        "finish_reason": finish,
        "stop_reason": stop,
        "token_ids": ids if generation.return_token_ids else None,
        "routed_experts": None,
    }
    prompt_ids = sequence.prompt_ids if generation.return_token_ids else None
    answer: dict[str, Any] = {
        "id": generation.id,
        "object": "chat.completion" if chat else "text_completion",
        "created": generation.created,
        "model": generation.model,
        "choices": [choice],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage(sequence),
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": {**sequence.metrics_ms(), "speculative_decoding": None},
    }
    if chat:
        choice["message"] = {
            "role": "assistant",
            "content": text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        answer |= {"prompt_logprobs": None, "prompt_token_ids": prompt_ids, "prompt_text": None}
    else:
        choice |= {"text": text, "prompt_logprobs": None, "prompt_token_ids": prompt_ids}
    return orjson.dumps(answer)
