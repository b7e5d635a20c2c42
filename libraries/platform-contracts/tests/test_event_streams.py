"""Events are read in every way that they can arrive in."""

import pytest

from platform_contracts.event_streams import DONE, EventReader, chunks, events

TEXT = "one\u2028two\u2029three\x85four"
FIRST = f'{{"text":"{TEXT}"}}'
BODY = (
    f': a comment\n\nevent: delta\ndata: {FIRST}\n\ndata:{{"text":"b"}}\r\n\r\ndata:\n\ndata: [DONE]\n\n'
).encode()


@pytest.mark.parametrize("size", [1, 2, 7, len(BODY)])
def test_pieces_of_any_size_give_the_same_events(size: int) -> None:
    pieces = [BODY[start : start + size] for start in range(0, len(BODY), size)]
    assert list(events(pieces)) == [FIRST, '{"text":"b"}', DONE]


def test_a_separator_inside_a_text_ends_no_line() -> None:
    assert [chunk["text"] for chunk in chunks(BODY)] == [TEXT, "b"]


def test_an_event_that_broke_off_is_not_returned() -> None:
    reader = EventReader()
    assert reader.feed(b'data: {"text":"a"}\n\ndata: {"te') == ['{"text":"a"}']
    assert reader.feed(b'xt":"b"}\n') == ['{"text":"b"}']
