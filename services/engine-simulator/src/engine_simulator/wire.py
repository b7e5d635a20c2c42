"""The bytes of responses in the format of vLLM 0.32, with per-request metrics and forced usage."""

from typing import Any

import orjson

from engine_simulator.engine import Sequence
from engine_simulator.probabilities import chat_logprobs, completion_logprobs
from engine_simulator.requests import Generation

DONE = b"data: [DONE]\n\n"
FINGERPRINT = "vllm-0.32.0-simulated"


def usage(sequence: Sequence, chat: bool) -> dict[str, Any]:
    """Return the token counts so far, with every field of an unstreamed response."""
    prompt = len(sequence.prompt_ids)
    details = {"created_cache_tokens": None, "multimodal_tokens": None, **cached_details(sequence, chat)}
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + sequence.generated,
        "completion_tokens": sequence.generated,
        "prompt_tokens_details": details,
        "completion_tokens_details": thought_details(sequence),
    }


def cached_details(sequence: Sequence, chat: bool) -> dict[str, Any]:
    """What vLLM reports with ``--enable-prompt-tokens-details``; only chats report the newly cached tokens."""
    found: dict[str, Any] = {"cached_tokens": sequence.cached_tokens}
    if chat:
        found["created_cache_tokens"] = sequence.created_cache_tokens
    return found


def thought_details(sequence: Sequence) -> dict[str, Any] | None:
    """The tokens of the answer that were thoughts, None for a model that does not think."""
    if not sequence.thinking_tokens:
        return None
    return {"reasoning_tokens": min(sequence.thinking_tokens, sequence.generated)}


def logprobs(generation: Generation, ids: list[int], offset: int) -> dict[str, Any] | None:
    """Return the requested log probabilities of the tokens ``ids``; ``offset`` characters were sent before
    them.
    """
    if generation.logprobs is None:
        return None
    if generation.kind == "chat":
        return chat_logprobs(ids, generation.logprobs)
    return completion_logprobs(ids, offset)


class ChunkWriter:
    """Builds the events of one stream; constant parts are built once."""

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
        self._tokens = 0

    def role(self) -> bytes:
        """Return the first event of a chat: the role, without text."""
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
        """Return an event with text, and the finish reason if it is the last one."""
        known = logprobs(self._generation, ids, self._answered)
        self._answered += len(text)
        choice: dict[str, Any]
        thinks = self._tokens < self._sequence.thinking_tokens
        self._tokens += len(ids)
        if self._chat:
            name = "reasoning" if thinks else "content"
            choice = {"index": 0, "delta": {name: text}, "logprobs": known, "finish_reason": finish}
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
        """Return the usage and the engine's timing, then the terminal event."""
        more = b',"system_fingerprint":"%b","metrics":%b' % (
            FINGERPRINT.encode(),
            orjson.dumps(self._sequence.metrics_ms()),
        )
        known = self._sequence
        details = b""
        for name, value in (
            (b"prompt_tokens_details", cached_details(known, self._chat)),
            (b"completion_tokens_details", thought_details(known)),
        ):
            if value is not None:
                details += b',"%b":%b' % (name, orjson.dumps(value))
        return self._event(b"", more, details) + DONE

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


class AudioWriter:
    """Builds the events of a transcription or translation: no role, and the usage once, at the end."""

    def __init__(self, generation: Generation, sequence: Sequence) -> None:
        self._generation = generation
        self._sequence = sequence

    def role(self) -> bytes:
        """Return nothing: these streams begin with text."""
        return b""

    def text(self, text: str, ids: list[int], finish: str | None, stop: str | None = None) -> bytes:
        """Return an event with text, and the finish reason if it is the last one."""
        choice: dict[str, Any] = {"delta": {"content": text}}
        if finish is not None:
            choice |= {"finish_reason": finish, "stop_reason": stop}
        return self._event([choice], {})

    def end(self) -> bytes:
        """Return the usage, then the terminal event."""
        prompt, generated = len(self._sequence.prompt_ids), self._sequence.generated
        counts = {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated}
        return self._event([], {"usage": counts}) + DONE

    def _event(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
        known = self._generation
        event = {
            "id": known.id,
            "object": f"{known.kind}.chunk",
            "created": known.created,
            "model": known.model,
            "choices": choices,
            **more,
        }
        return b"data: %b\n\n" % orjson.dumps(event)


def writer_of(generation: Generation, sequence: Sequence) -> ChunkWriter | AudioWriter:
    """Return the writer of a stream's events."""
    return (AudioWriter if generation.audio_seconds else ChunkWriter)(generation, sequence)


def whole_answer(
    generation: Generation, sequence: Sequence, text: str, ids: list[int], finish: str, stop: str | None
) -> bytes:
    """Return the JSON of an unstreamed generation."""
    if generation.audio_seconds:
        heard = {"type": "duration", "seconds": generation.audio_seconds}
        return orjson.dumps({"text": text, "usage": heard})
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
        "usage": usage(sequence, chat),
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
