"""Client-chosen texts are bounded in bytes, and harmless on a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.routing.client_text import (
    LONG_MODEL,
    UNNAMED_MODEL,
    bounded,
    bounded_model,
    printable,
    recordable_model,
)


@given(text=st.text(max_size=400), most=st.integers(1, 300))
def test_a_bounded_text_is_a_beginning_of_at_most_so_many_bytes(text: str, most: int) -> None:
    cut = bounded(text, most)
    assert text.startswith(cut)
    assert len(cut.encode()) <= most
    assert cut == text or len(cut.encode()) > most - 4


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("org/model:tag@1+x", "org/model:tag@1+x"),
        ("", ""),
        ("write me a poem", UNNAMED_MODEL),
        ("é", UNNAMED_MODEL),
        ("x" * 257, LONG_MODEL),
        ("é" * 129, LONG_MODEL),
    ],
)
def test_only_what_looks_like_a_model_name_is_recorded(name: str, recorded: str) -> None:
    assert recordable_model(bounded_model(name)) == recorded


@given(text=st.text(max_size=50))
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    shown = printable(text)
    assert all(char == "\n" or (ord(char) >= 32 and not 0x7F <= ord(char) <= 0x9F) for char in shown)


def test_an_escape_sequence_is_shown_and_text_stays_as_it_is() -> None:
    assert printable("a\x1b[2Jb\r\u202e\nc é 漢") == "a\\x1b[2Jb\\r\\u202e\nc é 漢"
