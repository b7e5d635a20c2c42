"""Text and tokens without weights: the next token is a pure function of the text so far.

Another simulator therefore continues an interrupted response with exactly the same text.
"""

import re
from functools import lru_cache
from hashlib import blake2b

WORDS = (
    "the a one some each of to in on with for from and but so then when where how why light water stone river "
    "cloud field house road door glass paper number letter word sound colour morning evening winter summer north "
    "south open close give take make find keep hold turn begin end small large warm cold early late near far old "
    "new true plain quiet clear even under over through between after before again still often never"
).split()

ASSISTANT = "<|assistant|>"
EOS_ID = 2
_FIRST_WORD_ID = 1_000
_PACKED_ID = 1 << 24
_PIECE = re.compile(r" ?[^\W_]+|\s|[^\w\s]|_", re.UNICODE)
_ID_OF_WORD = {text: _FIRST_WORD_ID + index for index, text in enumerate([*WORDS, *(" " + w for w in WORDS)])}
_WORD_OF_ID = {number: text for text, number in _ID_OF_WORD.items()}


@lru_cache(maxsize=4096)
def _encode_piece(piece: str) -> tuple[int, ...]:
    known = _ID_OF_WORD.get(piece)
    if known is not None:
        return (known,)
    data = piece.encode("utf-8", "surrogatepass")
    return tuple(
        _PACKED_ID + (len(data[at : at + 3]) << 24) + int.from_bytes(data[at : at + 3], "big")
        for at in range(0, len(data), 3)
    )


def encode(text: str) -> list[int]:
    """Return token ids: one for a word that the simulator knows, else one for up to three bytes."""
    ids: list[int] = []
    for piece in _PIECE.findall(text):
        ids.extend(_encode_piece(piece))
    return ids


def decode(ids: list[int]) -> str:
    """Return the text of token ids; unknown ids are dropped."""
    data = bytearray()
    for number in ids:
        word = _WORD_OF_ID.get(number)
        if word is not None:
            data += word.encode()
        elif number >= _PACKED_ID:
            packed = number - _PACKED_ID
            length = packed >> 24
            if 1 <= length <= 3:
                data += (packed & 0xFFFFFF).to_bytes(3, "big")[3 - length :]
    return data.decode("utf-8", "replace")


class Continuation:
    """Produces the text after ``context``, token by token. Ends about every ``mean_tokens`` tokens."""

    __slots__ = ("_digest", "_eos_below", "_first")

    def __init__(self, context: str, mean_tokens: int = 60) -> None:
        self._digest = blake2b(context.encode("utf-8", "surrogatepass"), digest_size=8)
        self._first = context.endswith(ASSISTANT)
        self._eos_below = int((1 << 32) / mean_tokens)

    def next(self, may_end: bool) -> tuple[int, str]:
        """Return the next token's id and text. (EOS_ID, "") is the end; it is returned only if ``may_end``."""
        value = int.from_bytes(self._digest.digest(), "big")
        if may_end and (value >> 32) < self._eos_below:
            return EOS_ID, ""
        word = WORDS[(value & 0xFFFFFFFF) % len(WORDS)]
        text = word if self._first else " " + word
        self._first = False
        self._digest.update(text.encode())
        return _ID_OF_WORD[text], text


def render_chat(messages: list[object], continue_final: bool) -> str:
    """Return a conversation as one text that ends with the beginning of the assistant's message."""
    parts = []
    for index, message in enumerate(messages):
        fields = message if isinstance(message, dict) else {}
        content = fields.get("content")
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        role = str(fields.get("role", "user"))
        last = index == len(messages) - 1
        if last and continue_final:
            parts.append(f"<|{role}|>{content or ''}")
        else:
            parts.append(f"<|{role}|>{content or ''}\n")
    if not continue_final:
        parts.append(ASSISTANT)
    return "".join(parts)
