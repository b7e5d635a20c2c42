"""Engines that die, stall or report a false end: the client's view, the record, and no leak."""

import time

import httpx
import pytest

from platform_contracts.event_streams import chunks

pytestmark = pytest.mark.service


def read_all(connection) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def all_fault(rig, kind: str, **more) -> None:
    for engine in rig.engines.values():
        engine.fault(kind, **more)


def hits(rig, kind: str) -> int:
    return sum(engine.state()["fault_hits"].get(kind, 0) for engine in rig.engines.values())


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("die_mid_stream", "broken"), ("clean_truncation", "incomplete"), ("error_event", "engine_error")],
)
def test_a_stream_that_dies_ends_with_one_error_event_and_without_an_end(
    rig, kind: str, outcome: str
) -> None:
    before = hits(rig, kind)
    all_fault(rig, kind, after_chunks=4)
    with rig.send(rig.body(), headers="x-request-id: died-" + kind.replace("_", "-") + "\r\n") as connection:
        data = read_all(connection)
    assert hits(rig, kind) == before + 1, "exactly one attempt met the fault"
    assert not data.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in data
    found = chunks(data)
    assert found[-1]["error"]["type"] == "server_error"
    assert sum("error" in chunk for chunk in found) == 1
    record = rig.record("died-" + kind.replace("_", "-"))
    assert record["outcome"] == "truncated"
    assert [attempt["outcome"] for attempt in record["attempts"]] == [outcome]
    assert record["tokens"]["completion"], "counts come from the last chunk seen"


@pytest.mark.parametrize("kind", ["die_mid_stream", "error_event"])
def test_a_death_before_the_first_byte_is_retried_on_the_other_engine(rig, kind: str) -> None:
    victim = rig.engines["engine-a"]
    victim.fault(kind, after_chunks=0)
    retried = 0
    for _ in range(4):
        answer = rig.post(rig.body(max_tokens=5))
        assert answer.status_code == 200
        assert answer.text.rstrip().endswith("data: [DONE]")
        assert "error" not in answer.text
        if answer.headers["x-route-attempts"] == "2":
            retried += 1
            assert answer.headers["x-route-backend"] == "engine-b"
            assert answer.headers["x-route-reason"] == "retry"
            record = rig.record(answer.headers["x-request-id"])
            assert record["outcome"] == "ok"
            assert record["tokens"]["completion"] == 5, "counted once"
    assert retried
    assert victim.state()["fault_hits"][kind] >= retried


def test_an_unstreamed_answer_that_dies_is_retried(rig) -> None:
    rig.engines["engine-a"].fault("die_mid_stream", after_chunks=0)
    for _ in range(4):
        answer = rig.post(rig.body(stream=False, max_tokens=5))
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 5
    assert rig.engines["engine-a"].state()["fault_hits"]["die_mid_stream"] >= 1


def test_silence_before_the_first_byte_fails_over_after_first_token_seconds(rig) -> None:
    rig.engines["engine-a"].fault("stall_first_byte", seconds=30)
    slow = []
    for _ in range(3):
        began = time.monotonic()
        answer = rig.post(rig.body(max_tokens=3))
        assert answer.status_code == 200
        if answer.headers["x-route-attempts"] == "2":
            slow.append(time.monotonic() - began)
            record = rig.record(answer.headers["x-request-id"])
            assert record["attempts"][0]["outcome"] == "first_token_timeout"
    assert slow
    assert min(slow) >= 2.0
    assert max(slow) < 30.0, "the stalled engine would have answered after 30 s"


@pytest.mark.parametrize("kind", ["stall_mid_stream", "comments_only"])
def test_silence_mid_stream_ends_it_and_comments_are_no_progress(rig, kind: str) -> None:
    all_fault(rig, kind, after_chunks=3, seconds=30)
    began = time.monotonic()
    with rig.send(rig.body()) as connection:
        data = read_all(connection)
    assert 2.0 <= time.monotonic() - began < 30.0
    assert b'data: {"error"' in data
    assert b"[DONE]" not in data
    assert not data.endswith(b"0\r\n\r\n")


def test_every_engine_silent_is_504_in_openai_shape(rig) -> None:
    all_fault(rig, "stall_first_byte", seconds=30)
    answer = rig.post(rig.body())
    assert answer.status_code == 504
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert rig.record(answer.headers["x-request-id"])["outcome"] == "timeout"


def test_a_refused_connection_is_retried_elsewhere(rig, eventually) -> None:
    rig.engines["engine-a"].fault("refuse", seconds=1)
    answers = [rig.post(rig.body(max_tokens=2)) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert {answer.headers["x-route-backend"] for answer in answers} == {"engine-b"}
    eventually(rig.engines["engine-a"].listens, "the engine listens again")


def test_a_status_of_503_is_retried_and_a_400_is_passed_on_unchanged(rig) -> None:
    rig.engines["engine-a"].fault("http_error", status=503)
    assert {rig.post(rig.body(max_tokens=2)).status_code for _ in range(4)} == {200}
    rig.engines["engine-a"].heal()
    all_fault(rig, "http_error", status=400)
    direct = httpx.post(
        f"http://127.0.0.1:{rig.engines['engine-a'].port}/v1/chat/completions", json=rig.body()
    )
    answer = rig.post(rig.body())
    assert answer.status_code == direct.status_code == 400
    assert answer.json() == direct.json()
    assert answer.headers["x-route-attempts"] == "1"


def test_all_engines_down_is_503_with_retry_after_at_once(rig) -> None:
    all_fault(rig, "health_lies")
    deadline = time.monotonic() + 8
    while rig.metric("router_usable_backends") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rig.metric("router_usable_backends") == 0
    answer = rig.post(rig.body())
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert rig.post(rig.body(model="nobody-serves-this")).status_code == 404
    assert httpx.get(f"{rig.url}/readyz").status_code == 200
    assert httpx.get(f"{rig.url}/v1/models").json() == {"object": "list", "data": []}
