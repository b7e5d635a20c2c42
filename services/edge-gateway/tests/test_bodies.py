"""A bad body gets its 400 here and never reaches the router; a good one passes unchanged."""

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from harness import body_oracle as oracle
from harness.edges import CHAT, GOOD_BODY, Edge
from harness.recording_upstream import RecordingUpstream

pytestmark = pytest.mark.service

MESSAGE = b'"messages":[{"role":"user","content":"hi"}]'


def chat(extra: bytes = b"", model: bytes = b'"model":"m",', messages: bytes = MESSAGE) -> bytes:
    """Return a chat body with raw parts put into it."""
    return b"{" + model + messages + extra + b"}"


def with_content(content: bytes) -> bytes:
    """Return a chat body whose only text is ``content`` as it is."""
    return chat(messages=b'"messages":[{"role":"user","content":"' + content + b'"}]')


# What is wrong, the body, and the field that the answer must name (None: no field).
MALFORMED: list[tuple[str, bytes, str | None]] = [
    ("nothing", b"", None),
    ("only spaces", b"   \n\t ", None),
    ("an array", b"[]", None),
    ("a string", b'"hi"', None),
    ("a number", b"42", None),
    ("null", b"null", None),
    ("true", b"true", None),
    ("an empty object", b"{}", "model"),
    ("cut off at once", b"{", None),
    ("cut off in a key", b'{"mod', None),
    ("cut off after a key", b'{"model"', None),
    ("cut off after a colon", b'{"model":', None),
    ("cut off in a value", b'{"model":"m', None),
    ("cut off before the end", chat()[:-1], None),
    ("a comma at the end", chat(b","), None),
    ("a comma at the start", b"{," + chat()[1:], None),
    ("two commas", chat(b',,"x":1'), None),
    ("no comma", chat(b' "x":1'), None),
    ("no colon", chat(b',"x" 1'), None),
    ("an equals sign", chat(b',"x"=1'), None),
    ("a comma at the end of an array", chat(b',"stop":["a",]'), None),
    ("a wrong bracket", chat(b',"stop":["a"}'), None),
    ("a bracket too many", chat() + b"}", None),
    ("two objects", chat() + chat(), None),
    ("text after the end", chat() + b" x", None),
    ("a NUL after the end", chat() + b"\x00", None),
    ("a NUL in between", b"{\x00" + chat()[1:], None),
    ("a byte order mark", b"\xef\xbb\xbf" + chat(), None),
    ("UTF-16", chat().decode().encode("utf-16"), None),
    ("single quotes", chat().replace(b'"', b"'"), None),
    ("a key without quotes", chat(b",x:1"), None),
    ("a number as a key", chat(b",1:1"), None),
    ("a comment", chat(b"/* hi */"), None),
    ("NaN", chat(b',"temperature":NaN'), None),
    ("Infinity", chat(b',"temperature":Infinity'), None),
    ("minus Infinity", chat(b',"temperature":-Infinity'), None),
    ("True", chat(b',"stream":True'), None),
    ("undefined", chat(b',"x":undefined'), None),
    ("a leading zero", chat(b',"n":01'), None),
    ("a leading plus", chat(b',"n":+1'), None),
    ("a lone minus", chat(b',"n":-'), None),
    ("a point without digits", chat(b',"temperature":1.'), None),
    ("a point without a zero", chat(b',"temperature":.5'), None),
    ("an exponent without digits", chat(b',"temperature":1e'), None),
    ("hexadecimal", chat(b',"n":0x10'), None),
    ("a number beyond every double", chat(b',"x":1e999'), None),
    ("a very long number", chat(b',"x":' + b"1" * 5000), None),
    ("an unknown escape", with_content(b"\\x41"), None),
    ("half a unicode escape", with_content(b"\\u12"), None),
    ("a wrong unicode escape", with_content(b"\\u12g4"), None),
    ("a lone high surrogate", with_content(b"\\ud800"), None),
    ("a lone low surrogate", with_content(b"\\udc00"), None),
    ("surrogates in the wrong order", with_content(b"\\udc00\\ud800"), None),
    ("a high surrogate and a letter", with_content(b"\\ud800\\u0041"), None),
    ("a raw newline in a string", with_content(b"a\nb"), None),
    ("a raw NUL in a string", with_content(b"a\x00b"), None),
    ("a raw tab in a string", with_content(b"a\tb"), None),
    ("a lone continuation byte", with_content(b"\x80"), None),
    ("an overlong slash", with_content(b"\xc0\xaf"), None),
    ("an overlong NUL", with_content(b"\xe0\x80\x80"), None),
    ("a surrogate in UTF-8", with_content(b"\xed\xa0\x80"), None),
    ("beyond the last code point", with_content(b"\xf4\x90\x80\x80"), None),
    ("a cut UTF-8 sequence", with_content(b"\xe2\x82"), None),
    ("latin-1", with_content("é".encode("latin-1")), None),
    ("0xff", with_content(b"\xff"), None),
    ("the same key twice", chat(b',"model":"other"'), "model"),
    ("the same key in two spellings", chat(b',"\\u006dodel":"other"'), "model"),
    (
        "the same key twice, deeper",
        chat(messages=b'"messages":[{"role":"user","role":"system"}]'),
        "role",
    ),
    ("65 arrays in each other", chat(b',"x":' + b"[" * 65 + b"]" * 65), None),
    ("10,000 objects in each other", chat(b',"x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000), None),
    ("10,000 open brackets", b"[" * 10_000, None),
]

# What is wrong, the path, the body as a value, and the field that the answer must name.
ILL_TYPED: list[tuple[str, str, dict[str, Any], str]] = [
    ("no model", CHAT, {"messages": [{}]}, "model"),
    ("a number as model", CHAT, {**GOOD_BODY, "model": 5}, "model"),
    ("null as model", CHAT, {**GOOD_BODY, "model": None}, "model"),
    ("an empty model", CHAT, {**GOOD_BODY, "model": ""}, "model"),
    ("a list as model", CHAT, {**GOOD_BODY, "model": ["m"]}, "model"),
    ("no messages", CHAT, {"model": "m"}, "messages"),
    ("no message", CHAT, {"model": "m", "messages": []}, "messages"),
    ("messages is a string", CHAT, {"model": "m", "messages": "hi"}, "messages"),
    ("messages is an object", CHAT, {"model": "m", "messages": {"role": "user"}}, "messages"),
    ("messages is null", CHAT, {"model": "m", "messages": None}, "messages"),
    ("a message is a string", CHAT, {"model": "m", "messages": [{}, "hi"]}, "messages[1]"),
    ("a message is a list", CHAT, {"model": "m", "messages": [[]]}, "messages[0]"),
    ("too many messages", CHAT, {"model": "m", "messages": [{}] * 10_001}, "messages"),
    ("no tokens", CHAT, {**GOOD_BODY, "max_tokens": 0}, "max_tokens"),
    ("minus one token", CHAT, {**GOOD_BODY, "max_tokens": -1}, "max_tokens"),
    ("half a token", CHAT, {**GOOD_BODY, "max_tokens": 0.5}, "max_tokens"),
    ("a float of tokens", CHAT, {**GOOD_BODY, "max_tokens": 10.0}, "max_tokens"),
    ("tokens as text", CHAT, {**GOOD_BODY, "max_tokens": "10"}, "max_tokens"),
    ("more tokens than exist", CHAT, {**GOOD_BODY, "max_tokens": 10**30}, "max_tokens"),
    ("no completion tokens", CHAT, {**GOOD_BODY, "max_completion_tokens": 0}, "max_completion_tokens"),
    ("too hot", CHAT, {**GOOD_BODY, "temperature": 2.01}, "temperature"),
    ("too cold", CHAT, {**GOOD_BODY, "temperature": -0.1}, "temperature"),
    ("temperature as text", CHAT, {**GOOD_BODY, "temperature": "1"}, "temperature"),
    ("temperature as a truth value", CHAT, {**GOOD_BODY, "temperature": True}, "temperature"),
    ("no choice", CHAT, {**GOOD_BODY, "n": 0}, "n"),
    ("too many choices", CHAT, {**GOOD_BODY, "n": 129}, "n"),
    ("stream as text", CHAT, {**GOOD_BODY, "stream": "true"}, "stream"),
    ("no prompt", "/v1/completions", {"model": "m"}, "prompt"),
    ("an empty list of prompts", "/v1/completions", {"model": "m", "prompt": []}, "prompt"),
    ("a number as prompt", "/v1/completions", {"model": "m", "prompt": 1}, "prompt"),
    ("no input", "/v1/embeddings", {"model": "m"}, "input"),
    ("an object as input", "/v1/embeddings", {"model": "m", "input": {}}, "input"),
    ("no input of a response", "/v1/responses", {"model": "m"}, "input"),
    ("no max_tokens of a message", "/v1/messages", {"model": "m", "messages": [{}]}, "max_tokens"),
    ("no documents", "/v1/rerank", {"model": "m", "query": "q"}, "documents"),
    ("neither prompt nor messages", "/tokenize", {"model": "m"}, "prompt"),
]

GOOD: list[tuple[str, str, bytes]] = [
    ("the least", CHAT, chat()),
    ("space everywhere", CHAT, b' \t\r\n{ "model" : "m" , "messages" : [ { } , { "a" : [ ] } ] } \n'),
    (
        "unknown fields",
        CHAT,
        chat(b',"ignore_eos":true,"min_tokens":5,"stream_options":{"include_usage":true}'),
    ),
    (
        "nulls where absence is meant",
        CHAT,
        chat(b',"max_tokens":null,"temperature":null,"n":null,"stream":null'),
    ),
    ("every escape", CHAT, with_content(b'\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u00e9\\ud83d\\ude00')),
    ("every length of UTF-8", CHAT, with_content("aé€😀\U0010ffff\u2028".encode())),
    ("DEL and high controls", CHAT, with_content(b"\x7f\xc2\x80")),
    ("numbers of every form", CHAT, chat(b',"x":[0,-0,1.5,-1.5e3,1E+2,2e-3,123456789012345678901234567890]')),
    ("limits themselves", CHAT, chat(b',"temperature":2,"n":128,"max_tokens":1000000')),
    ("zero temperature", CHAT, chat(b',"temperature":0')),
    ("64 levels", CHAT, chat(b',"x":' + b"[" * 63 + b"]" * 63)),
    ("the same key in two objects", CHAT, chat(messages=b'"messages":[{"role":"a"},{"role":"b"}]')),
    ("keys that differ only in spelling", CHAT, chat(b',"Model":1,"model ":2')),
    ("an escaped key", CHAT, chat(model=b'"\\u006dodel":"m",')),
    ("a text prompt", "/v1/completions", b'{"model":"m","prompt":""}'),
    ("token ids", "/v1/completions", b'{"model":"m","prompt":[1,2,3]}'),
    ("many prompts", "/v1/completions", b'{"model":"m","prompt":[[1,2],[3]]}'),
    ("an embedding", "/v1/embeddings", b'{"model":"m","input":["a","b"]}'),
    ("a response", "/v1/responses", b'{"model":"m","input":"hi","max_output_tokens":16}'),
    (
        "a message",
        "/v1/messages",
        b'{"model":"m","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}',
    ),
    ("a ranking", "/v1/rerank", b'{"model":"m","query":"q","documents":["a"]}'),
    ("tokens of a prompt", "/tokenize", b'{"model":"m","prompt":"hi"}'),
    ("tokens of messages", "/tokenize", b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'),
    ("a megabyte, nearly", CHAT, with_content(b"x" * 990_000)),
]


@pytest.fixture(scope="module")
def client(edge: Edge) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=edge.url, headers=edge.headers(), timeout=30) as opened:
        yield opened


def assert_refused(answer: httpx.Response, param: str | None, what: str) -> None:
    """The answer is a 400 in OpenAI's format that names the field."""
    assert answer.status_code == 400, f"{what}: {answer.status_code} {answer.text[:200]}"
    assert answer.headers["content-type"] == "application/json", what
    assert answer.headers["x-request-id"], what
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, what
    assert error["type"] == "invalid_request_error", what
    assert error["message"], what
    assert error["code"], what
    assert error["param"] == param, f"{what}: {error}"


def test_the_fixed_corpus_has_at_least_sixty_bad_bodies() -> None:
    assert len(MALFORMED) + len(ILL_TYPED) >= 60


@pytest.mark.parametrize(("what", "body", "param"), MALFORMED, ids=[case[0] for case in MALFORMED])
def test_a_malformed_body_is_refused_before_the_router(
    client: httpx.Client, upstream: RecordingUpstream, what: str, body: bytes, param: str | None
) -> None:
    assert_refused(client.post(CHAT, content=body), param, what)
    assert upstream.count == 0


@pytest.mark.parametrize(("what", "path", "body", "param"), ILL_TYPED, ids=[case[0] for case in ILL_TYPED])
def test_an_ill_typed_field_is_named_before_the_router(
    client: httpx.Client, upstream: RecordingUpstream, what: str, path: str, body: dict[str, Any], param: str
) -> None:
    assert_refused(client.post(path, content=json.dumps(body).encode()), param, what)
    assert upstream.count == 0


@pytest.mark.parametrize(("what", "path", "body"), GOOD, ids=[case[0] for case in GOOD])
def test_a_good_body_arrives_byte_for_byte(
    client: httpx.Client, upstream: RecordingUpstream, what: str, path: str, body: bytes
) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == 200, f"{what}: {answer.text[:300]}"
    assert [request.body for request in upstream.received] == [body]


def test_a_good_answer_comes_back_byte_for_byte(client: httpx.Client, upstream: RecordingUpstream) -> None:
    upstream.manner.body = bytes(range(256)) * 300
    upstream.manner.headers = (("x-route-backend", "backend-a"), ("x-route-rule", "default"))
    answer = client.post(CHAT, content=chat())
    assert answer.content == upstream.manner.body
    assert answer.headers["x-route-backend"] == "backend-a"


def _seed() -> int:
    return int(os.environ.get("EDGE_FUZZ_SEED", random.SystemRandom().randrange(2**32)))


def _rounds(usual: int) -> int:
    return usual * 20 if os.environ.get("FULL") else usual


def _mutated(random_source: random.Random, body: bytes) -> bytes:
    """Damage a body in one to three places, or not at all."""
    data = bytearray(body)
    for _ in range(random_source.randint(0, 3)):
        at = random_source.randrange(len(data) + 1)
        kind = random_source.randrange(5)
        if kind == 0 and at < len(data):
            del data[at]
        elif kind == 1:
            data[at:at] = random_source.choice(
                [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b"e"]
            )
        elif kind == 2 and at < len(data):
            data[at] = random_source.randrange(256)
        elif kind == 3:
            data[at:at] = random_source.choice(
                [b"\xed\xa0\x80", b"\xe2\x82\xac", b"\\ud800", b"null", b"1e400", b"\x00"]
            )
        else:
            other = random_source.randrange(len(data) + 1)
            low, high = sorted((at, other))
            data[at:at] = data[low:high][:20]
    return bytes(data)


def test_generated_damage_is_judged_as_an_independent_reader_judges_it(
    client: httpx.Client, upstream: RecordingUpstream
) -> None:
    seed = _seed()
    print(f"EDGE_FUZZ_SEED={seed}")
    random_source = random.Random(seed)
    sound = [(path, body) for _, path, body in GOOD if len(body) < 2000]
    admitted = refused = 0
    for _ in range(_rounds(600)):
        path, body = random_source.choice(sound)
        body = _mutated(random_source, body)
        expected = oracle.judge(path, body)
        upstream.received.clear()
        answer = client.post(path, content=body)
        context = f"EDGE_FUZZ_SEED={seed} {path} {body!r}: expected {expected!r}, got {answer.text[:200]}"
        if expected is None:
            admitted += 1
            assert answer.status_code == 200, context
            assert [request.body for request in upstream.received] == [body], context
        else:
            refused += 1
            assert answer.status_code == 400, context
            assert upstream.count == 0, context
    print(f"{admitted} admitted, {refused} refused")
    assert admitted > 20, "the generator must also produce good bodies"
    assert refused > 20, "the generator must also produce bad bodies"


def _value(random_source: random.Random, depth: int = 0) -> Any:
    """Return any JSON value, with a preference for the edges of ranges."""
    pick = random_source.randrange(9 if depth < 3 else 6)
    if pick == 0:
        return random_source.choice([None, True, False])
    if pick in (1, 2):
        return random_source.choice([-1, 0, 1, 2, 127, 128, 129, 999_999, 1_000_000, 1_000_001, 10**20])
    if pick == 3:
        return random_source.choice([-0.1, 0.0, 0.5, 1.0, 1.01, 2.0, 2.000001, 1e300])
    if pick in (4, 5):
        return random_source.choice(["", "m", "true", "😀", "a\nb", '"', "\\", "\u0000"])
    if pick in (6, 7):
        return [_value(random_source, depth + 1) for _ in range(random_source.randrange(4))]
    return {f"k{key}": _value(random_source, depth + 1) for key in range(random_source.randrange(3))}


def test_generated_values_in_every_field_are_judged_by_the_schema(
    client: httpx.Client, upstream: RecordingUpstream
) -> None:
    seed = _seed()
    print(f"EDGE_FUZZ_SEED={seed}")
    random_source = random.Random(seed)
    good = {path: json.loads(body) for _, path, body in GOOD if len(body) < 200}
    admitted = refused = 0
    for _ in range(_rounds(600)):
        path = random_source.choice(sorted(good))
        value = dict(good[path])
        for _ in range(random_source.randint(1, 2)):
            name = random_source.choice([*oracle.FIELDS[path]["fields"], "something_else"])
            if random_source.random() < 0.2:
                value.pop(name, None)
            else:
                value[name] = _value(random_source)
        body = json.dumps(value, ensure_ascii=random_source.random() < 0.5).encode()
        expected = oracle.judge(path, body)
        upstream.received.clear()
        answer = client.post(path, content=body)
        context = f"EDGE_FUZZ_SEED={seed} {path} {body!r}: expected {expected!r}, got {answer.text[:200]}"
        if expected is None:
            admitted += 1
            assert answer.status_code == 200, context
            assert [request.body for request in upstream.received] == [body], context
        else:
            refused += 1
            assert answer.status_code == 400, context
            assert answer.json()["error"]["param"] == (expected or None), context
            assert upstream.count == 0, context
    print(f"{admitted} admitted, {refused} refused")
    assert admitted > 20
    assert refused > 20


def test_the_admission_script_never_failed(edge: Edge) -> None:
    """Last in this file: after the whole corpus no script error was counted."""
    assert edge.post().status_code == 200
    for script in ("admission", "authentication"):
        assert edge.metric(f"envoy_http_lua_{script}_executions") > 0
        assert edge.metric(f"envoy_http_lua_{script}_errors") == 0, edge.log.read_text()[-2000:]
