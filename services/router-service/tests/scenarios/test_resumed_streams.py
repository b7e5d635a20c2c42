"""If an engine dies, its stream continues on the other engine, and the client sees one response."""

import pytest

from platform_contracts.event_streams import chunks

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def rules():
    return [{"name": "resumed", "when": {"max_tokens_gte": 1}, "route_to": "general", "resume": True}]


@pytest.mark.parametrize("kind", ["die_mid_stream", "error_event", "clean_truncation"])
@pytest.mark.parametrize("cut", [2, 7, 18])
def test_the_client_sees_one_answer_with_one_id_and_whole_counts(rig, kind: str, cut: int) -> None:
    body = rig.body(max_tokens=20, stream_options={"include_usage": True})
    rig.engines["engine-a"].fault(kind, after_chunks=cut)
    for number in range(4):  # equal engines take turns: one of these begins on the dying one
        name = f"resumed-{kind.replace('_', '-')}-{cut}-{number}"
        with rig.send(body, headers=f"x-request-id: {name}\r\nconnection: close\r\n") as connection:
            data = b""
            while piece := connection.recv(65536):
                data += piece
        record = rig.record(name)
        if record["attempts"][0]["outcome"] != "complete":
            break
    assert rig.engines["engine-a"].state()["fault_hits"][kind] >= 1
    assert [attempt["backend"] for attempt in record["attempts"]] == ["engine-a", "engine-b"]
    assert record["attempts"][1]["outcome"] == "complete"
    assert record["outcome"] == "ok"
    assert record["reason"] == "resume"
    assert data.endswith(b"0\r\n\r\n")
    body = b"".join(_unchunked(data))
    found = chunks(body)
    assert len({chunk["id"] for chunk in found}) == 1
    roles = [c for chunk in found for c in chunk["choices"] if c["delta"].get("role")]
    assert len(roles) <= 1
    assert found[-1]["usage"]["completion_tokens"] == 20 == record["tokens"]["completion"]
    assert sum(1 for chunk in found for c in chunk["choices"] if c.get("finish_reason")) == 1
    assert body.count(b"[DONE]") == 1
    assert rig.metric("router_stream_resumes_total", result="ok") >= 1


def test_a_request_for_log_probabilities_is_not_resumed(rig) -> None:
    for engine in rig.engines.values():
        engine.fault("die_mid_stream", after_chunks=4)
    with rig.send(rig.body(logprobs=True), headers="x-request-id: log-probabilities\r\n") as connection:
        data = b""
        while piece := connection.recv(65536):
            data += piece
    assert b"[DONE]" not in data
    assert rig.record("log-probabilities")["outcome"] == "truncated"


def _unchunked(data: bytes) -> list[bytes]:
    rest = data.split(b"\r\n\r\n", 1)[1]
    found = []
    while rest:
        size, rest = rest.split(b"\r\n", 1)
        length = int(size, 16)
        if not length:
            break
        found.append(rest[:length])
        rest = rest[length + 2 :]
    return found
