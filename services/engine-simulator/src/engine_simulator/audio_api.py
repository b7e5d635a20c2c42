"""Transcriptions and translations: reads their form and invents a text for the audio."""

from email import message_from_bytes
from email.message import Message
from hashlib import blake2b
from typing import Literal

from engine_simulator.asgi import Scope, header, read_body
from engine_simulator.engine import Engine
from engine_simulator.event_streams import new_id
from engine_simulator.generating import Receive
from engine_simulator.language import encode
from engine_simulator.requests import Generation, Refused, answer_after

AUDIO_PATHS: dict[str, Literal["transcription", "translation"]] = {
    "/v1/audio/transcriptions": "transcription",
    "/v1/audio/translations": "translation",
}

_BYTES_PER_SECOND = 32_000  # 16 kHz, 16 bits, one channel
_DEFAULT_TOKENS = 64
_TRUE = frozenset({"true", "1", "on", "t", "y", "yes"})


async def read_audio(
    scope: Scope, path: str, receive: Receive, engine: Engine
) -> tuple[dict[str, str], Generation]:
    """Return the text fields of an audio request, and its generation. The same audio gets the same text.

    Raises:
        Refused: 400 for a body that is not a form, or has no file.
        Cut: the client disconnected before its body was complete.
    """
    kind = header(scope, b"content-type")
    body = await read_body(receive)
    # The parser of mail is independent of the router's reader of forms.
    whole = message_from_bytes(b"content-type: " + kind.encode("latin-1") + b"\r\n\r\n" + body)
    parts = whole.get_payload() if whole.is_multipart() else []
    audio: bytes | None = None
    fields: dict[str, str] = {}
    for part in parts:
        if not isinstance(part, Message):
            continue
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        data = content if isinstance(content, bytes) else b""
        if part.get_filename() is not None and name == "file":
            audio = data
        else:
            fields[name] = data.decode("utf-8", "replace")
    if audio is None:
        raise Refused(400, "file: Field required", "file")
    said = answer_after(f"{fields.get('prompt', '')} {blake2b(audio, digest_size=8).hexdigest()}")
    limit = fields.get("max_completion_tokens", "")
    generation = Generation(
        kind=AUDIO_PATHS[path],
        model=fields.get("model", ""),
        context=said,
        prompt_ids=encode(said),
        max_tokens=int(limit) if limit.isdigit() and int(limit) else _DEFAULT_TOKENS,
        id=new_id("trsc-" if AUDIO_PATHS[path] == "transcription" else "trsl-"),
        stream=fields.get("stream", "").lower() in _TRUE,
        audio_seconds=-(-len(audio) // _BYTES_PER_SECOND) or 1,
    )
    if len(generation.prompt_ids) + generation.max_tokens > engine.capacity.max_model_len:
        raise Refused(
            400, f"max_completion_tokens is too large: {generation.max_tokens}", "max_completion_tokens"
        )
    return fields, generation
