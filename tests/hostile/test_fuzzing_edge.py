"""Random bodies for the edge's JSON check: it refuses a body, or reads every field as orjson and strict JSON do."""

import os
import random
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from harness.judges.body_oracle import Refused, kind_of, strict_json
from harness.servers.lua_check import LuaCheck, lua_check

pytestmark = pytest.mark.service

FULL = os.environ.get("FULL") == "1"
SEED = int(os.environ.get("EDGE_FUZZ_SEED", random.SystemRandom().randrange(2**32) if FULL else 20_261_130))
EXAMPLES = 4000 if FULL else 120
WANTED = ("model", "n", "messages", "stream", "prompt", "max_tokens")

# The edge is stricter here than orjson; any other refusal of what orjson reads is a fault.
STRICTER = {
    "duplicate_key", "nested_too_deep", "number_too_long", "number_out_of_range", "too_many_keys",
    "too_many_containers", "media_url_not_allowed", "invalid_type",
}  # fmt: skip

WORDS = [*WANTED, "x", "image_url", "url", "content", ""]
PIECES = [
    b"a", b" ", b"\\\"", b"\\\\", b"\\/", b"\\b", b"\\u0000", b"\\u0061", b"\\u006e", b"\\uD83D\\uDE00", b"\\ud800",
    b"\\udc00", b"\\ud800\\ud800", b"\\uD83D\\u0041", b"\\u00", b"\\x", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xff",
    b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x00", b"\x1f", b"\x7f", b"\n", b"\xef\xbb\xbf",
    b"\\", b"data:", b"\xc2\x85",
]  # fmt: skip
NUMBERS = [
    b"0", b"-0", b"-0.0", b"1", b"01", b"-01", b"00", b"1.", b".5", b"+1", b"1e5", b"1E+2", b"1e-400", b"1e999",
    b"-1e999", b"1e308",
    b"1e309", b"1e00005", b"1e-00005", b"1e000000", b"9007199254740993", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809", b"1" * 64, b"1" * 65, b"0." + b"1" * 62,
    b"0." + b"1" * 63, b"NaN", b"Infinity", b"-", b"-a", b"0x10", b"1_0", b"1e", b"1e+",
    b"4.9e-324", b"1.7976931348623159e308",
]  # fmt: skip
SPACE = st.sampled_from([b"", b"", b"", b" ", b"\n\t\r ", b"\x0b", b"\xc2\xa0", b"\x00", b"/**/"])

STRINGS = st.lists(st.sampled_from(PIECES), max_size=4).map(lambda parts: b'"' + b"".join(parts) + b'"')
KEYS = st.one_of(
    st.sampled_from(WORDS).map(lambda word: b'"' + word.encode() + b'"'),
    st.sampled_from(WORDS).map(lambda word: b'"' + b"".join(b"\\u%04x" % ord(one) for one in word) + b'"'),
    STRINGS,
)
SCALARS = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from([b"null", b"true", b"false", b"nul", b"True", b"tru\xc3\xa9"]),
    STRINGS,
)


def spaced(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*(one for part in parts for one in (SPACE, part))).map(b"".join)


def arrays(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(spaced(inner), max_size=4).map(lambda items: b"[" + b",".join(items) + b"]")


def objects(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    member = spaced(KEYS, st.just(b":"), inner)
    return st.lists(member, max_size=5).map(lambda items: b"{" + b",".join(items) + b"}")


def nested(depth: int) -> bytes:
    """Return an object of exactly ``depth`` levels."""
    return b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


VALUES = st.recursive(SCALARS, lambda inner: st.one_of(arrays(inner), objects(inner)), max_leaves=8)
BODIES = st.one_of(
    spaced(objects(VALUES), st.just(b"")),
    objects(VALUES),
    st.integers(60, 68).map(nested),
    st.tuples(objects(VALUES), st.integers(0, 200), st.binary(max_size=2), st.integers(0, 2)).map(
        lambda given: given[0][: given[1]] + given[2] + given[0][given[1] + given[3] :]
    ),
    st.binary(max_size=20),
)


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LuaCheck]:
    with lua_check(tmp_path_factory.mktemp("lua-check"), WANTED) as running:
        yield running


def assert_read_alike(name: str, found: dict[str, Any], value: Any, context: str) -> None:
    """The edge found in a field what orjson read."""
    kind = kind_of(value)
    if kind == "number" and abs(value) >= 2**63:
        kind = found["kind"]  # orjson reads an integer of more than 64 bits as a float
    assert found["kind"] == kind, (name, context)
    if isinstance(value, int | float) and not isinstance(value, bool):
        assert found["value"] == float(value), (name, context)
    if isinstance(value, str):
        assert found["length"] >= len(value.encode()), (name, context)
        assert (found["length"] == 0) == (value == ""), (name, context)
    if isinstance(value, list):
        assert found["length"] == len(value), (name, context)
        no_objects = [number for number, item in enumerate(value) if not isinstance(item, dict)]
        assert found["odd"] == (no_objects[0] if no_objects else None), (name, context)
        texts = sum(isinstance(item, str | list | dict) for item in value)
        assert (found["nested"] or 0) == texts, (name, context)
    if isinstance(value, dict):
        assert found["length"] == len(value), (name, context)


def judge(body: bytes, found: dict[str, Any]) -> bool:
    """Compare what the edge found in one body with orjson; return whether the edge admitted it."""
    context = f"EDGE_FUZZ_SEED={SEED} {body!r}: {found}"
    assert "failed" not in found, context
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        assert "code" in found, f"orjson refuses it: {context}"
        return False
    if "code" in found:
        assert found["code"] in STRICTER, f"orjson reads it: {context}"
        return False
    try:
        strict_json(body)
    except Refused as error:
        raise AssertionError(f"{error}: {context}") from None
    assert isinstance(read, dict), context
    assert set(found["fields"]) == set(read) & set(WANTED), context
    for name, one in found["fields"].items():
        assert_read_alike(name, one, read[name], context)
    return True


COUNTS = {True: 0, False: 0}


@seed(SEED)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(bodies=st.lists(BODIES, min_size=30, max_size=60))
def read_alike(check: LuaCheck, bodies: list[bytes]) -> None:
    for body, found in zip(bodies, check.findings(bodies), strict=True):
        COUNTS[judge(body, found)] += 1


@pytest.mark.timeout(900)
def test_a_body_is_refused_or_read_as_orjson_reads_it(check: LuaCheck) -> None:
    print(f"EDGE_FUZZ_SEED={SEED}")
    read_alike(check)
    print(f"{COUNTS[True]} admitted, {COUNTS[False]} refused")
    assert COUNTS[True] > 200, "the generator must also produce sound bodies"
    assert COUNTS[False] > 200, "the generator must also produce unsound bodies"


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_is_read_alike_or_refused(check: LuaCheck, number: bytes) -> None:
    bodies = [b'{"n":' + number + end for end in (b"}", b' ,"x":1}')] + [b'{"x":[' + number + b"]}"]
    for body, found in zip(bodies, check.findings(bodies), strict=True):
        judge(body, found)


@pytest.mark.parametrize("piece", PIECES)
def test_every_piece_of_text_is_read_alike_or_refused_in_keys_and_values(
    check: LuaCheck, piece: bytes
) -> None:
    bodies = [b'{"model":"%b"}' % piece, b'{"%b":1,"model":"m"}' % piece, b'{"model":"m"%b}' % piece]
    for body, found in zip(bodies, check.findings(bodies), strict=True):
        judge(body, found)


def test_two_spellings_of_a_key_are_one_key(check: LuaCheck) -> None:
    bodies = [
        b'{"n":1,"\\u006e":2}',
        b'{"\\u006E":1,"n":2}',
        b'{"a":{"/":1,"\\/":2}}',
        b'{"\xc3\xa9":1,"\\u00e9":2}',
    ]
    assert [one.get("code") for one in check.findings(bodies)] == ["duplicate_key"] * len(bodies)
    assert check.findings([b'{"\\\\u006e":1,"n":2}'])[0]["fields"]["n"]["value"] == 2
