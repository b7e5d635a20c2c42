"""Parses requests as vLLM does; refuses with vLLM's messages what vLLM would refuse."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from engine_simulator.language import ASSISTANT, decode, encode, render_chat

DEFAULT_COMPLETION_TOKENS = 16


class Refused(Exception):
    """An error response of vLLM: ``status`` and a message."""

    def __init__(self, status: int, message: str, param: str | None = None, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.kind = kind

    def body(self) -> dict[str, Any]:
        """Return the JSON body of vLLM's response."""
        kind = self.kind or {400: "BadRequestError", 404: "NotFoundError"}.get(
            self.status, "InternalServerError"
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.status}}


@dataclass
class Generation:
    """One generation: the text to continue, its limits, and the format of the response.

    ``logprobs`` is the number of requested alternatives per token, None if none were requested. ``audio_seconds`` is
    the length of the audio of a transcription or translation, 0 for other requests.
    """

    kind: Literal["chat", "text", "transcription", "translation"]
    model: str
    context: str
    prompt_ids: list[int]
    max_tokens: int
    id: str
    stream: bool = False
    min_tokens: int = 0
    ignore_eos: bool = False
    stops: tuple[str, ...] = ()
    include_usage: bool = False
    return_token_ids: bool = False
    logprobs: int | None = None
    thinking_tokens: int = 0
    audio_seconds: int = 0
    created: int = field(default_factory=lambda: int(time.time()))


def read_generation(
    kind: Literal["chat", "text"], body: dict[str, Any], request_id: str, max_model_len: int
) -> Generation:
    """Read a chat or completion request.

    Raises:
        Refused: with vLLM's status and message.
    """
    _check_sampling(body)
    context, ids = _prompt(kind, body)
    if len(ids) >= max_model_len:
        raise Refused(
            400,
            f"This model's maximum context length is {max_model_len} tokens. However, your request has "
            f"{len(ids)} input tokens. Please reduce the length of the input messages.",
            "input_tokens",
        )
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    if asked is None:
        asked = max_model_len - len(ids) if kind == "chat" else DEFAULT_COMPLETION_TOKENS
    if type(asked) is not int or asked < 1:
        raise Refused(400, f"max_tokens must be at least 1, got {asked}.", "max_tokens")
    if len(ids) + asked > max_model_len:
        raise Refused(
            400,
            f"'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum context "
            f"length is {max_model_len} tokens and your request has {len(ids)} input tokens "
            f"({asked} > {max_model_len} - {len(ids)}).",
            "max_tokens",
        )
    stops = body.get("stop") or ()
    stops = (stops,) if isinstance(stops, str) else tuple(s for s in stops if isinstance(s, str))
    options = body.get("stream_options")
    prefix = "chatcmpl" if kind == "chat" else "cmpl"
    return Generation(
        kind=kind,
        model=str(body.get("model", "")),
        context=context,
        prompt_ids=ids,
        max_tokens=asked,
        id=f"{prefix}-{request_id or uuid.uuid4().hex}",
        stream=body.get("stream") is True,
        min_tokens=body.get("min_tokens") or 0,
        ignore_eos=body.get("ignore_eos") is True,
        stops=stops,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        return_token_ids=body.get("return_token_ids") is True,
        logprobs=_logprobs(kind, body),
        thinking_tokens=_thinking_tokens(kind, body, asked),
    )


def _thinking_tokens(kind: str, body: dict[str, Any], max_tokens: int) -> int:
    """Half of a chat's tokens are thoughts if its template is told to enable thinking."""
    options = body.get("chat_template_kwargs")
    thinks = isinstance(options, dict) and options.get("enable_thinking") is True
    return max_tokens // 2 if kind == "chat" and thinks else 0


def _check_sampling(body: dict[str, Any]) -> None:
    bounds = (("temperature", 0, 2, "in [0, 2]"), ("top_p", 1e-9, 1, "in (0, 1]"))
    for name, least, most, allowed in bounds:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float):
            raise Refused(400, f"{name}: Input should be a valid number", f"body.{name}", "Bad Request")
        if not least <= value <= most:
            must = "non-negative" if name == "temperature" and value < 0 else allowed
            told = f"(parameter={name}, value={float(value)})"
            raise Refused(400, f"{name} must be {must}, got {float(value)}. {told}", name)
    count = body.get("n")
    if type(count) is int and count < 1:
        raise Refused(400, f"n must be at least 1, got {count}.")
    if count not in (None, 1):
        raise Refused(400, f"n={count}: the engine simulator gives one choice for each request", "n")


def _logprobs(kind: str, body: dict[str, Any]) -> int | None:
    wanted = body.get("logprobs")
    if kind == "chat":
        return (body.get("top_logprobs") or 0) if wanted is True else None
    return wanted if type(wanted) is int else None


def _prompt(kind: str, body: dict[str, Any]) -> tuple[str, list[int]]:
    if kind == "chat":
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refused(400, "messages: Field required", "messages")
        continues = body.get("continue_final_message") is True
        if continues and body.get("add_generation_prompt", True):
            raise Refused(
                400, "Cannot set both `continue_final_message` and `add_generation_prompt` to True.", None
            )
        context = render_chat(messages, continues)
        return context, encode(context)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, list) and len(prompt) > 1 and type(prompt[0]) is not int:
        raise Refused(400, "the engine simulator answers one prompt for each request", "prompt")
    if isinstance(prompt, list) and prompt and all(type(p) is int for p in prompt):
        return decode(prompt), prompt
    if not isinstance(prompt, str):
        raise Refused(400, "prompt: Field required", "prompt")
    return prompt, encode(prompt)


def answer_after(text: str) -> str:
    """Return the context of an assistant's response to one text (for APIs without messages)."""
    return f"<|user|>{text}\n{ASSISTANT}"
