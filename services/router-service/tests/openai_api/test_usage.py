"""Token counts and timing are read from the end of a response, and never from text that a model wrote."""

import pytest

from router_service.openai_api.usage import read_report

USAGE = b'"usage":{"prompt_tokens":12,"total_tokens":46,"completion_tokens":34,"prompt_tokens_details":null}'
METRICS = b'"metrics":{"time_to_first_token_ms":135.3,"generation_time_ms":240.7,"queue_time_ms":0.05}'


@pytest.mark.parametrize(
    "tail",
    [
        b'data: {"id":"x","choices":[],' + USAGE + b"," + METRICS + b"}\n\ndata: [DONE]\n\n",
        b'{"id":"x","choices":[],' + USAGE.replace(b":", b" : ") + b", " + METRICS + b"}",
        b'{"usage":{"prompt_tokens":1},' + METRICS + b'}{"usage":null,' + USAGE + b',"usage": null}',
    ],
)
def test_reads_usage_and_the_engines_timing(tail: bytes) -> None:
    report = read_report(tail)
    assert (report.prompt_tokens, report.completion_tokens) == (12, 34)
    assert (report.queue_ms, report.prefill_ms, report.decode_ms) == (0.05, 135.3, 240.7)


def test_nested_objects_are_read_whole() -> None:
    report = read_report(
        b'{"usage":{"prompt_tokens_details":{"cached_tokens":8},"prompt_tokens":9,"completion_tokens":2}}'
    )
    assert (report.prompt_tokens, report.completion_tokens) == (9, 2)


def test_embeddings_without_completion_tokens_count_none() -> None:
    report = read_report(b'{"data":[],"usage":{"prompt_tokens":9,"total_tokens":9}}')
    assert (report.prompt_tokens, report.completion_tokens) == (9, 0)


def test_text_written_by_a_model_is_not_usage() -> None:
    report = read_report(b'{"choices":[{"text":"\\"usage\\":{\\"prompt_tokens\\":666}"}]}')
    assert report.prompt_tokens is None


def test_usage_is_found_however_much_follows_it() -> None:
    ids = b",".join(b"%d" % number for number in range(16_000))
    report = read_report(b"{" + USAGE + b',"prompt_token_ids":[' + ids + b"]}")
    assert (report.prompt_tokens, report.completion_tokens) == (12, 34)


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b'"usage"',
        b'"usage":',
        b'"usage":{',
        b'"usage":{]}',
        b'"usage":{"prompt_tokens":true}',
        b'"usage":{"prompt_tokens":"12"}',
    ],
)
def test_broken_tails_say_nothing_and_raise_nothing(tail: bytes) -> None:
    report = read_report(tail)
    assert report.prompt_tokens is None
    assert report.queue_ms is None


@pytest.mark.parametrize(
    ("usage", "cached", "reasoning"),
    [
        (
            b'{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8},'
            b'"completion_tokens_details":{"reasoning_tokens":3}}',
            8,
            3,
        ),
        (
            b'{"input_tokens":9,"input_tokens_details":{"cached_tokens":0,"cached_tokens_per_turn":[]},'
            b'"output_tokens":5,"output_tokens_details":{"reasoning_tokens":0}}',
            0,
            0,
        ),
        # The Messages API counts what is read from the cache and written to it apart from the input.
        (
            b'{"input_tokens":1,"output_tokens":5,"cache_read_input_tokens":6,"cache_creation_input_tokens":2}',
            6,
            None,
        ),
        (b'{"input_tokens":2,"output_tokens":5,"cache_read_input_tokens":7}', 7, None),
        (b'{"input_tokens":9,"output_tokens":5,"cache_read_input_tokens":null}', None, None),
        (b'{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":null}', None, None),
        (
            b'{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":true}}',
            None,
            None,
        ),
    ],
)
def test_cached_and_reasoning_tokens_are_read_in_every_api(
    usage: bytes, cached: int | None, reasoning: int | None
) -> None:
    report = read_report(b'{"usage":' + usage + b"}")
    assert (report.prompt_tokens, report.completion_tokens) == (9, 5)
    assert (report.cached_tokens, report.reasoning_tokens) == (cached, reasoning)
