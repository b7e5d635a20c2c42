"""Large bodies: no step of reading one holds the loop for long. Steps are counted in bytes and units, not in time."""

import asyncio
import json
from math import ceil
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.openai_api import large_body
from router_service.openai_api.large_body import LARGE_BYTES, MAX_COST, PIECE_BYTES, parse_cost
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.inbound import BadBody, Inbound

MIB = 1024 * 1024
SIZE = 10 * MIB
CHAT = INFERENCE_PATHS["/v1/chat/completions"]
COMPLETIONS = INFERENCE_PATHS["/v1/completions"]
FORM = INFERENCE_PATHS["/v1/audio/transcriptions"]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.sampled_from('a"\\,:[{é\n')),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=5),
    max_leaves=30,
)


def texts(text: bytes) -> bytes:
    return b'{"model":"m","prompt":"%b"}' % (text * (SIZE // len(text)))


EMOJI = "😀".encode()


def chat(text: bytes) -> bytes:
    return b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % text


def image(url: bytes, text: bytes) -> bytes:
    part = b'{"type":"image_url","image_url":{"url":"%b"}}' % url
    return b'{"messages":[{"content":[{"type":"text","text":"%b"},%b]}]}' % (text, part)


def lists(item: bytes) -> bytes:
    return b'{"model":"m","prompt":[%b]}' % (item * (SIZE // len(item)))[:-1]


ACCEPTED = {
    "a text": texts(b"word "),
    "escapes in a quarter of the characters": texts(b'say \\"a\\", '),
    "escaped Chinese": texts(b"\\u4e2d\\u6587"),
    "Chinese": texts("中".encode()),
    "Chinese with an emoji": texts("中".encode()).replace("中".encode(), EMOJI, 1),
    "5 MB of text with an emoji": chat(EMOJI + b"word " * 1_000_000),
    "an image": image(b"data:image/png;base64," + b"QUJD" * (SIZE // 4), b"see"),
    "an image and an emoji": image(b"data:image/png;base64," + b"QUJD" * (SIZE // 4), EMOJI),
    "an emoji after an escaped backslash": texts(b"word \\\\ud83d "),
    "commas in a text": texts(b"1,2,3,"),
    "JSON in a text": texts(b'{\\"a\\":[1]},'),
    "10,000 messages": orjson.dumps(
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x" * 300}]} for _ in range(5000)
            ]
        }
    ),
    "500,000 token ids": b'{"prompt":[%b]}'
    % b",".join(b"%d" % (number % 99_000) for number in range(500_000)),
}
REFUSED = {
    "numbers": lists(b"1,"),
    "texts": lists(b'"ab",'),
    "a text with an emoji at its start": texts(b"word ").replace(b"word ", EMOJI, 1),
    "a text with an emoji at its end": texts(b"word ").replace(b'"}', EMOJI + b'"}'),
    "a text with an escaped emoji": texts(b"word ").replace(b"word ", b"\\ud83d\\ude00", 1),
    "an escaped emoji on the border of two pieces": b'{"prompt":"%b\\uD83D\\uDE00%b"}'
    % (b"w" * (PIECE_BYTES - 14), b"w" * SIZE),
    "a field name with an emoji": b'{"%b%b":1}' % (EMOJI, b"k" * SIZE),
    "two long texts with an emoji": b'{"prompt":["%b","%b"]}' % ((EMOJI + b"w" * (SIZE // 2),) * 2),
    "many texts with an emoji": lists(b'"%b%b",' % (EMOJI, b"w" * 1000)),
    "escapes": texts(b'\\"'),
    "lists": lists(b"[],"),
    "objects": lists(b"{},"),
    "keys": b"{%b}" % b",".join(b'"%d":1' % number for number in range(SIZE // 12)),
}


def counted(value: Any) -> int:
    """Return the units of a value's keys, containers and separators."""
    if isinstance(value, dict):
        inner = sum(counted(one) for one in value.values())
        return 10 + 24 * len(value) - 2 * bool(value) + inner
    if isinstance(value, list):
        return 10 + 2 * max(0, len(value) - 1) + sum(map(counted, value))
    return 2 if isinstance(value, str) else 0


@given(value=VALUES, piece=st.integers(1, 40), spaces=st.booleans())
def test_the_estimate_counts_what_is_outside_of_texts_however_it_is_cut(
    value: Any, piece: int, spaces: bool
) -> None:
    body = json.dumps(value, ensure_ascii=False, indent=1 if spaces else None).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_body, "PIECE_BYTES", piece)
        patch.setattr(large_body, "BYTES_PER_UNIT", 1 << 30)
        patch.setattr(large_body, "ESCAPES_PER_UNIT", 1 << 30)
        patch.setattr(large_body, "WIDE_CHARS_PER_UNIT", 1 << 30)
        assert [*parse_cost(body)][-1] == counted(value)


async def turns_while_admitted(inbound: Inbound) -> int:
    """Return how often other tasks ran while the body was admitted."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    try:
        await inbound.admit_large()
    finally:
        task.cancel()
    return turns


@pytest.mark.parametrize("kind", ACCEPTED)
async def test_others_run_after_every_piece_of_a_large_body(kind: str) -> None:
    inbound = Inbound.now(CHAT, b"/", [])
    inbound.body = ACCEPTED[kind]
    assert await turns_while_admitted(inbound) >= ceil(len(inbound.body) / PIECE_BYTES)
    assert isinstance(inbound.fields(), dict)


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_body_that_takes_too_long_to_parse_is_refused_before(kind: str) -> None:
    inbound = Inbound.now(COMPLETIONS, b"/", [])
    inbound.body = REFUSED[kind]
    orjson.loads(inbound.body)
    costs = list(parse_cost(inbound.body))
    assert costs[-1] > MAX_COST
    with pytest.raises(BadBody, match="takes too long to parse"):
        await turns_while_admitted(inbound)


@pytest.mark.parametrize("wide", [EMOJI, b"\\ud83d\\ude00", b"\\\\\\uDBFF\\uDFFF"])
@pytest.mark.parametrize("before", range(0, 24, 5))
@pytest.mark.parametrize("piece", [1, 2, 3, 4, 7, 1000])
def test_every_character_of_a_text_with_an_emoji_costs_more(before: int, piece: int, wide: bytes) -> None:
    body = b'{"a":"short","b":"%b%b%b","c":"%b"}' % (b"w" * before, wide, b"w" * 60, b"n" * 500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_body, "PIECE_BYTES", piece)
        patch.setattr(large_body, "BYTES_PER_UNIT", 1 << 30)
        patch.setattr(large_body, "ESCAPES_PER_UNIT", 1 << 30)
        patch.setattr(large_body, "WIDE_CHARS_PER_UNIT", 1)
        wide_body = [*parse_cost(body)][-1]
        narrow_body = [*parse_cost(body.replace(wide, b"w"))][-1]
    # A body in one piece counts its whole texts together. A cut escape may be counted without its first bytes.
    most = len(body) if piece == 1000 else before + 60 + len(wide)
    assert before + 60 - 2 <= wide_body - narrow_body <= most


async def test_a_small_body_is_not_searched() -> None:
    inbound = Inbound.now(COMPLETIONS, b"/", [])
    inbound.body = REFUSED["keys"][: LARGE_BYTES - 1]
    assert await turns_while_admitted(inbound) == 0


async def test_a_form_lets_others_run_before_it_is_read() -> None:
    inbound = Inbound.now(FORM, b"/", [])
    inbound.body = b"x" * SIZE
    assert await turns_while_admitted(inbound) >= 1
