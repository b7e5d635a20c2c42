"""The event stream gives out the bytes it got, however they are cut, and finds what it must in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.openai_api.event_stream import MAX_HELD_BYTES, EventStream, split_events


def chunk(text: str, usage: bool = True) -> bytes:
    counted = ',"usage":{"prompt_tokens":3,"completion_tokens":1}' if usage else ""
    return ('{"id":"c","choices":[{"index":0,"delta":{"content":"' + text + '"}}]' + counted + "}").encode()


def event(data: bytes, newline: bytes = b"\n") -> bytes:
    return b"data: " + data + newline + newline


USAGE = event(b'{"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}')
DONE = event(b"[DONE]")
TEXT = event(chunk("Paris \\u00e9 \u00e9\u4e2d")) + event(chunk('data: {\\"error\\"')) + event(chunk("x"))
STREAM = b": welcome\n\n" + TEXT + USAGE + DONE
CRLF_STREAM = event(chunk("a"), b"\r\n") + event(chunk("b"), b"\r\n") + event(b"[DONE]", b"\r\n")
TERMINALS = (b"data: [DONE]", b"data:[DONE]")
STOP = (b"event: message_stop", b'"type":"message_stop"')


def relay(stream: EventStream, pieces: list[bytes]) -> bytes:
    out = b"".join(stream.feed(piece) for piece in pieces)
    return out + (stream.rest(TERMINALS) if stream.error is None else b"")


@pytest.mark.parametrize("body", [STREAM, CRLF_STREAM], ids=["lf", "crlf"])
def test_bytes_out_equal_bytes_in_when_split_at_every_byte(body: bytes) -> None:
    for cut in range(len(body) + 1):
        stream = EventStream(drop_usage=False)
        assert relay(stream, [body[:cut], body[cut:]] if 0 < cut < len(body) else [body]) == body
        assert stream.ends_with_any((b"data: [DONE]",))
        assert stream.error is None


@given(st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=60))
def test_any_split_gives_the_same_bytes_and_the_same_tail(sizes: list[int]) -> None:
    stream = EventStream(drop_usage=True)
    pieces = []
    at = 0
    for size in sizes:
        pieces.append(STREAM[at : at + size])
        at += size
    pieces.append(STREAM[at:])
    assert relay(stream, [piece for piece in pieces if piece]) == STREAM.replace(USAGE, b"")
    assert b'"completion_tokens":2' in stream.tail()


def test_one_byte_at_a_time_drops_only_the_usage_event() -> None:
    stream = EventStream(drop_usage=True)
    assert relay(stream, [STREAM[i : i + 1] for i in range(len(STREAM))]) == STREAM.replace(USAGE, b"")


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_an_in_band_error_is_found_at_every_cut_and_nothing_of_it_is_given_out(newline: bytes) -> None:
    before = event(chunk("a"), newline)
    body = before + event(b'{"error":{"message":"EngineCore died"}}', newline) + event(b"[DONE]", newline)
    for cut in range(1, len(body)):
        stream = EventStream(drop_usage=False)
        out = stream.feed(body[:cut])
        if stream.error is None:
            out += stream.feed(body[cut:])
        assert out == before
        assert stream.error is not None
        assert b"EngineCore died" in stream.error


def test_text_that_looks_like_an_error_is_not_one() -> None:
    stream = EventStream(drop_usage=True)
    body = event(chunk('data: {\\"error\\":1} \\"choices\\":[]'))
    assert stream.feed(body) == body
    assert stream.error is None


def test_comments_pass_but_are_no_progress() -> None:
    stream = EventStream(drop_usage=False)
    assert stream.feed(b": ping\n\n") == b": ping\n\n"
    assert not stream.progressed
    assert stream.feed(b": ping\n\n" + event(b"{}")) != b""
    assert stream.progressed
    stream.feed(b"data: {")
    assert not stream.progressed


def test_an_endless_event_is_passed_on_in_pieces_so_that_memory_stays_bounded() -> None:
    stream = EventStream(drop_usage=False)
    piece = b"x" * 50_000
    out = stream.feed(b"data: ")
    held = 0
    for _ in range(20):
        got = stream.feed(piece)
        held = max(held, held + len(piece) - len(got))
        out += got
    assert held <= MAX_HELD_BYTES + len(piece)
    out += stream.feed(b"\n\n" + event(b"{}"))
    assert out == b"data: " + piece * 20 + b"\n\n" + event(b"{}")


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_an_endless_event_ends_at_its_blank_line_wherever_that_is_cut(newline: bytes) -> None:
    long = b"data: " + b"x" * MAX_HELD_BYTES + newline + newline
    for cut in range(len(long) - 5, len(long) + 3):
        stream = EventStream(drop_usage=True)
        body = long + USAGE
        out = stream.feed(body[:cut]) + stream.feed(body[cut:])
        assert out == long
        assert not stream.oversized


def test_an_endless_event_that_never_ends_is_no_terminal_event() -> None:
    stream = EventStream(drop_usage=False)
    stream.feed(b"event: message_stop\ndata: " + b"x" * MAX_HELD_BYTES)
    assert stream.oversized
    assert not stream.ends_with_any(STOP)


def test_a_terminal_event_that_was_passed_on_in_pieces_is_one() -> None:
    stream = EventStream(drop_usage=False)
    body = event(chunk("a")) + b"event: message_stop\ndata: " + b"x" * 2 * MAX_HELD_BYTES + b"\n\n"
    out = b"".join(stream.feed(body[at : at + 60_000]) for at in range(0, len(body), 60_000))
    assert (out + stream.rest(STOP) == body, stream.oversized) == (True, False)
    assert stream.ends_with_any(STOP)


@pytest.mark.parametrize(
    ("terminal", "terminals", "whole"),
    [
        (DONE, TERMINALS, DONE.rstrip()),
        (event(b"[DONE]", b"\r\n"), TERMINALS, DONE.rstrip()),
        (
            b'event: message_stop\ndata: {"type":"message_stop","a":{}}\n\n',
            STOP,
            b'event: message_stop\ndata: {"type":"message_stop","a":{}}',
        ),
    ],
)
def test_of_an_event_that_was_cut_only_a_whole_terminal_event_is_given_out(
    terminal: bytes, terminals: tuple[bytes, ...], whole: bytes
) -> None:
    first = event(chunk("a"))
    body = first + event(chunk("b")) + terminal
    for cut in range(len(first), len(body)):
        stream = EventStream(drop_usage=False)
        out = stream.feed(body[:cut])
        rest = stream.rest(terminals)
        assert rest == b"" or rest.startswith(whole)
        assert stream.ends_with_any(terminals) is (out + rest).startswith(first + event(chunk("b")) + whole)


def test_where_no_terminal_event_is_known_what_is_held_is_given_out() -> None:
    stream = EventStream(drop_usage=False)
    assert stream.feed(b"data: x") == b""
    assert stream.rest(()) == b"data: x"


@pytest.mark.parametrize(
    "after", [b"\n", b"\n\n", b"\r\n", b": bye\n\n", b"\n: bye\n\n", b": bye\n", b": by"]
)
def test_nothing_said_after_the_terminal_event_replaces_it(after: bytes) -> None:
    stream = EventStream(drop_usage=False)
    stream.feed(event(chunk("x")) + DONE)
    stream.feed(after)
    assert not stream.progressed
    stream.rest(TERMINALS)
    assert stream.ends_with_any(TERMINALS)


def test_line_ends_without_number_cost_no_time() -> None:
    stream = EventStream(drop_usage=False)
    stream.feed(b":" + b"\r\n" * 5000 + event(b"{}"))
    assert stream.progressed


def test_kept_blocks_are_what_was_given_out() -> None:
    stream = EventStream(drop_usage=True)
    stream.keep()
    out = relay(stream, [STREAM[:70], STREAM[70:]])
    assert stream.kept is not None
    assert b"".join(stream.kept) == out
    assert stream.kept_bytes == len(out)


def test_split_events_keeps_every_byte() -> None:
    assert b"".join(split_events(STREAM)) == STREAM
    assert len(split_events(STREAM)) == 6


@pytest.mark.parametrize(
    ("last", "whole"),
    [
        (DONE, True),
        (b"data:[DONE]\n\n", True),
        (event(chunk("x")) + DONE, True),
        (event(chunk("x"), b"\r\n") + event(b"[DONE]", b"\r\n"), True),
        (event(chunk("data: [DONE]")), False),
        (event(chunk("\\ndata: [DONE]\\n\\n")), False),
        (event(chunk("data: [DONE]")) + DONE, True),
    ],
)
def test_only_a_line_that_begins_so_is_the_terminal_event(last: bytes, whole: bool) -> None:
    stream = EventStream(drop_usage=False)
    stream.feed(event(chunk("first")))
    stream.feed(last)
    assert stream.ends_with_any((b"data: [DONE]", b"data:[DONE]")) is whole
