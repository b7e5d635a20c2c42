"""A bad body gets its 400 here and never reaches the router; a good one passes unchanged."""

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from harness.judges import body_oracle as oracle
from harness.judges.edge_corpus import GOOD, ILL_TYPED, MALFORMED, chat
from harness.servers.edges import CHAT, Edge
from harness.servers.recording_upstream import RecordingUpstream

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def client(edge: Edge) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=edge.url, headers=edge.headers(), timeout=30) as opened:
        yield opened


def assert_refused(answer: httpx.Response, param: str | None, what: str) -> None:
    """The answer is a 400 in OpenAI's format that names the field."""
    assert answer.status_code == 400, f"{what}: {answer.status_code} {answer.text[:200]}"
    assert answer.headers["content-type"] == "application/json", what
    assert answer.headers["x-request-id"], what
    document = answer.json()
    error = document["error"]
    assert error["type"] == "invalid_request_error", what
    if answer.request.url.path.startswith("/v1/messages"):
        assert document["type"] == "error", what
        assert document["request_id"] == answer.headers["x-request-id"], what
        assert not param or f"'{param.split('[')[0]}'" in error["message"], what
        return
    assert set(error) == {"message", "type", "param", "code"}, what
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
    """The printed seed: EDGE_FUZZ_SEED, else a new one with FULL=1, else always the same."""
    new = random.SystemRandom().randrange(2**32) if os.environ.get("FULL") else 20_261_124
    return int(os.environ.get("EDGE_FUZZ_SEED", new))


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
            if not path.startswith("/v1/messages"):  # Anthropic's errors name a field in their message only
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
