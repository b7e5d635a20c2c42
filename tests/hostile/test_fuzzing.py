"""Random input for the router's parsers: every stream is forwarded unchanged, every body is parsed or refused."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from router_service.openai_api.event_stream import MAX_HELD_BYTES, EventStream
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.inbound import BadBody, Inbound
from router_service.routing.features import extract_features
from router_service.routing.prompt_reader import Excessive

LINES = st.sampled_from(
    [
        b": keep-alive", b"data: [DONE]", b'data: {"choices":[{"delta":{"content":"a"}}]}', b"data:", b"event: x",
        b'data: {"choices":[],"usage":{"prompt_tokens":1}}', b"retry: 5", b"id: \xff\x00", b"data: \xf0\x9f\x98\x80", b"",
    ]
)  # fmt: skip
ENDS = st.sampled_from([b"\n", b"\n\n"])
STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=30).map(lambda parts: b"".join(a + b for a, b in parts))
PATHS = st.sampled_from(list(INFERENCE_PATHS.values()))


@given(STREAMS, st.lists(st.integers(1, 40), max_size=60))
def test_a_stream_passes_unchanged_however_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    events = EventStream(drop_usage=False)
    out = b""
    rest = stream
    for size in [*cuts, len(stream) or 1]:
        if rest:
            out += events.feed(rest[:size])
            rest = rest[size:]
    out += events.rest(())
    assert out == stream


@given(STREAMS, STREAMS, st.integers(1, 60))
def test_nothing_passes_from_the_error_on(before: bytes, after: bytes, size: int) -> None:
    events = EventStream(drop_usage=False)
    before = before + b"\n\n"
    stream = before + b'data: {"error":{"message":"SECRET"}}\n\n' + after
    out = b""
    for start in range(0, len(stream), size):
        if events.error is None:
            out += events.feed(stream[start : start + size])
    assert events.error is not None
    assert before.startswith(out.rstrip(b"\n")) or out == before
    assert b"SECRET" not in out


def test_an_event_without_end_is_not_held() -> None:
    events = EventStream(drop_usage=False)
    out = sum(len(events.feed(b"data: " + b"x" * 65_536)) for _ in range(64))
    assert out >= 64 * 65_536 - MAX_HELD_BYTES


NAMES = st.sampled_from(
    [
        *(
            "model",
            "messages",
            "prompt",
            "input",
            "tools",
            "system",
            "instructions",
            "max_tokens",
            "stream",
            "n",
        ),
        *(
            "max_completion_tokens",
            "max_output_tokens",
            "documents",
            "query",
            "user",
            "metadata",
            "prompt_cache_key",
        ),
        *(
            "role",
            "content",
            "type",
            "text",
            "tool_calls",
            "function",
            "arguments",
            "image_url",
            "reasoning_content",
        ),
    ]
)
VALUES = st.sampled_from(
    [None, True, 0, -1, 10**12, 1.5, "", "text", "a\x00b", "\U0001f600", "user", "text", "function"]
)
SHAPES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)


@given(PATHS, st.dictionaries(NAMES, SHAPES, max_size=8))
def test_every_object_has_features_or_is_refused(path, body) -> None:
    try:
        features = extract_features(body, path.path, {})
    except Excessive:
        return
    assert features.prompt_chars >= 0
    assert features.max_tokens is None or isinstance(features.max_tokens, int)
    assert isinstance(features.model, str)
    assert isinstance(features.stream, bool)
    assert len(features.model.encode()) <= 4096


@given(PATHS, st.binary(max_size=200))
def test_every_other_body_is_refused(path, body: bytes) -> None:
    inbound = Inbound(path, path.target, [], body, 0.0, 0.0)
    with contextlib.suppress(BadBody):
        assert isinstance(inbound.fields(), dict)
