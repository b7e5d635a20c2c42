"""The edge does not trust a client's headers about itself, and its keys and prompts appear in no log, metric or error."""

import contextlib
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from harness.clients.raw_http import exchange
from harness.ports import free_port
from harness.servers.edges import CHAT, GOOD_BODY, Edge, running_edge
from harness.servers.recording_upstream import Manner, Received, RecordingUpstream, recording_upstream

pytestmark = pytest.mark.service

UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-[0-9a-f]{16}-0[01]$")

SPOOFED = {
    "x-client-id": "evil",
    "x-edge-start": "1.0",
    "x-request-id": "evil",
    "x-route-backend": "evil",
    "x-route-anything": "evil",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-max-retries": "99",
    "x-envoy-retry-on": "5xx",
    "x-envoy-original-path": "/metrics",
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "evil",
    "x-forwarded-client-cert": "evil",
    "x-real-ip": "10.0.0.1",
    "forwarded": "for=10.0.0.1",
    "x-ratelimit-limit": "evil",
    "traceparent": "00-11111111111111111111111111111111-2222222222222222-01",
    "tracestate": "evil=1",
    "baggage": "evil=1",
}


def test_headers_the_edge_owns_are_overwritten_or_removed(edge: Edge, upstream: RecordingUpstream) -> None:
    before = time.time()
    answer = edge.post(**{name.replace("-", "_"): value for name, value in SPOOFED.items()})
    after = time.time()
    assert answer.status_code == 200
    received = upstream.received[0]
    text = "\n".join(f"{name}: {value}" for name, value in received.headers)
    assert "evil" not in text
    assert "10.0.0.1" not in text
    assert "1111111111111111" not in text
    assert received.value("x-client-id") == "tester"
    assert UUID.match(received.value("x-request-id") or "")
    assert TRACEPARENT.match(received.value("traceparent") or "")
    assert received.value("x-forwarded-proto") == "http"
    start = received.value("x-edge-start") or ""
    assert re.match(r"^\d+\.\d{6}$", start)
    assert before - 0.05 <= float(start) <= after


def test_headers_of_the_client_pass(edge: Edge, upstream: RecordingUpstream) -> None:
    edge.post(x_session_id="s-1", x_canary="yes", user_agent="mine/1")
    received = upstream.received[0]
    assert received.value("x-session-id") == "s-1"
    assert received.value("x-canary") == "yes"
    assert received.value("user-agent") == "mine/1"
    assert received.value("te") == "trailers"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"x-request-id: mine\r\n",
        b"x-request-id: " + b"a" * 10_000 + b"\r\n",
        "x-request-id: ключ\r\n".encode(),
    ],
    ids=["absent", "given", "very long", "not ASCII"],
)
def test_one_safe_id_is_in_answer_router_and_log(
    edge: Edge, upstream: RecordingUpstream, sent: bytes
) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in edge.headers().items()).encode()
    answer = exchange(edge.port, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + head + sent + b"\r\n")
    assert answer.status == 200
    request_id = answer.headers["x-request-id"]
    assert UUID.match(request_id)
    assert upstream.received[0].value("x-request-id") == request_id
    entry = edge.access_line(request_id)
    trace = TRACEPARENT.match(upstream.received[0].value("traceparent") or "")
    assert trace
    assert entry["trace_id"] == trace.group(1)


def test_an_id_with_a_line_break_splits_nothing(edge: Edge, upstream: RecordingUpstream) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in edge.headers().items()).encode()
    tricky = b"x-request-id: a\rx-client-id: evil\r\n"
    answer = exchange(edge.port, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + head + tricky + b"\r\n")
    assert answer.status == 200  # one header with an odd value, and that header is replaced
    assert UUID.match(answer.headers["x-request-id"])
    received = upstream.received[0]
    assert received.value("x-request-id") == answer.headers["x-request-id"]
    assert received.value("x-client-id") == "tester"
    assert "evil" not in str(received.headers)


def test_the_access_log_joins_the_routers_record(edge: Edge, upstream: RecordingUpstream) -> None:
    upstream.manner.tokens = "prompt=7,completion=9"
    upstream.manner.headers = (("x-route-backend", "backend-a"), ("x-route-rule", "a_rule"))
    answer = edge.post({**GOOD_BODY, "stream": True})
    assert answer.text.endswith("data: [DONE]\n\n")
    entry = edge.access_line(answer.headers["x-request-id"])
    assert entry["event"] == "request"
    assert entry["service"] == "edge-gateway"
    assert entry["client_id"] == "tester"
    assert entry["method"] == "POST"
    assert entry["path"] == CHAT
    assert entry["code"] == 200
    assert entry["flags"] == "-"
    assert entry["details"] == "via_upstream"
    assert entry["tokens"] == "prompt=7,completion=9"
    assert entry["backend"] == "backend-a"
    assert entry["rule"] == "a_rule"
    assert entry["attempts"] == 1
    assert entry["bytes_sent"] == len(answer.content)
    assert 0 <= entry["first_byte_ms"] <= entry["duration_ms"]
    assert entry["time"].endswith("Z")


def test_a_refusal_is_logged_with_its_reason(edge: Edge) -> None:
    answer = edge.post({"model": "m", "messages": []})
    entry = edge.access_line(answer.headers["x-request-id"])
    assert entry["code"] == 400
    assert entry["refused_param"] == "messages"
    assert entry["refused_code"] == "empty_array"


@pytest.fixture(scope="module")
def dead_router_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with running_edge(tmp_path_factory.mktemp("dead"), free_port()) as running:
        yield running


def test_a_dead_router_is_answered_503_in_the_openai_format(dead_router_edge: Edge) -> None:
    for _ in range(3):
        answer = dead_router_edge.post()
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert UUID.match(answer.headers["x-request-id"])
        assert answer.json()["error"]["type"] == "server_error"
        assert answer.json()["error"]["code"] == "service_unavailable"


def test_the_router_errors_pass_as_they_are(edge: Edge, upstream: RecordingUpstream) -> None:
    upstream.manner = Manner(status=404, body=b'{"error":{"code":"model_not_found"}}')
    answer = edge.post()
    assert answer.status_code == 404
    assert answer.content == b'{"error":{"code":"model_not_found"}}'


@contextlib.contextmanager
def collected_spans() -> Iterator[tuple[int, list[bytes]]]:
    """Run an OpenTelemetry collector that keeps what it is sent as bytes; yields its port and the batches."""
    batches: list[bytes] = []

    def export(batch: bytes, _: object) -> bytes:
        batches.append(batch)
        return b""

    method = grpc.unary_unary_rpc_method_handler(export)
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, batches
    server.stop(0).wait()


CANARY_KEY = "sk-canary-4f1d9a77c0ffee4f1d9a77c0ffee0001"
CANARY_PROMPT = "canary-prompt-4f1d9a77c0ffee0002"


def test_a_canary_key_and_a_canary_prompt_appear_nowhere(tmp_path: Path) -> None:
    """Every path a secret can take: admitted, refused each way, upstream failures, keys in wrong places."""
    with (
        recording_upstream() as upstream,
        collected_spans() as (collector, spans),
        running_edge(
            tmp_path,
            upstream.port,
            {
                "timeouts": {"short_request_seconds": 3},
                "tracing": {"sample_ratio": 1.0, "collector": {"host": "127.0.0.1", "port": collector}},
            },
            keys={"tester": [CANARY_KEY]},
        ) as edge,
    ):
        upstream.manner_of = asked_manner
        answers = canary_answers(edge)
        exchange(edge.port, f"GET /v1/models HTTP/1.1\r\nHost: a\r\nx_key: {CANARY_KEY}\r\n\r\n".encode())
        for answer in answers:
            assert CANARY_KEY not in answer.text
            assert CANARY_PROMPT not in answer.text
            assert CANARY_KEY not in str(answer.headers)
        edge.access_line(answers[-1].headers["x-request-id"])
        for request in upstream.received:
            assert CANARY_KEY not in str(request.headers)
            assert CANARY_PROMPT not in request.line, "unknown query parameters are dropped"
        shown = shown_by(edge)
        # Each of Envoy's threads sends its spans in batches of its own: wait for the first and the last request's.
        shown["spans"] = spans_of(spans, [answers[0], answers[-1]])
    shown["log at the end"] = edge.log.read_text()
    assert len(shown["log"]) > 1000
    for where, text in shown.items():
        assert CANARY_KEY not in text, where
        assert CANARY_PROMPT not in text, where


def asked_manner(request: Received) -> Manner:
    """Answer as the request's `x-make` header asks."""
    if request.value("x-make") == "hang-up":
        return Manner(hang_up=True)
    if request.value("x-make") == "503":
        return Manner(status=503)
    return Manner(delay_seconds=9.0 if request.value("x-make") == "slow" else 0.0)


def canary_answers(edge: Edge) -> list[httpx.Response]:
    """Send the secrets in every way; return the answers, the last one the slowest."""
    body = {**GOOD_BODY, "messages": [{"role": "user", "content": CANARY_PROMPT}]}
    answers = [
        edge.post(body, key=CANARY_KEY),
        edge.post({**body, "stream": True}, key=CANARY_KEY),
        edge.post(body, key=CANARY_KEY + "x"),
        edge.post({**body, "model": 5}, key=CANARY_KEY),
        edge.post({**body, CANARY_PROMPT: 1, "n": "x"}, key=CANARY_KEY),
        edge.post(b'{"model":"' + CANARY_PROMPT.encode() + b'"', key=CANARY_KEY),
        edge.post(b'{"%s":1,"%s":2}' % ((CANARY_PROMPT.encode(),) * 2), key=CANARY_KEY),
        edge.post(body, key=CANARY_KEY, x_make="503"),
        edge.post(body, key=CANARY_KEY, x_make="hang-up"),
        edge.post(body, path=f"{CHAT}?{CANARY_KEY}={CANARY_PROMPT}", key=CANARY_KEY),
        edge.post(body, path=f"/v1/{CANARY_KEY}", key=CANARY_KEY),
        edge.post(body, key="none", cookie=f"key={CANARY_KEY}", referer=CANARY_KEY),
        httpx.get(f"{edge.url}/v1/models/{CANARY_KEY}", headers=edge.headers(CANARY_KEY)),
        httpx.get(f"{edge.url}/v1/models", headers={**edge.headers(CANARY_KEY), "x-make": "slow"}),
    ]
    assert [answer.status_code for answer in answers] == [
        *(200, 200, 401, 400, 400, 400, 400, 503, 503, 200, 404, 401, 200, 504),
    ]
    return answers


def shown_by(edge: Edge) -> dict[str, str]:
    """Return everything that Envoy shows to an operator, by its place."""
    admin = f"http://127.0.0.1:{edge.admin_port}"
    shown = {
        path: httpx.get(admin + path).text
        for path in ("/stats", "/stats/prometheus", "/config_dump", "/clusters")
    }
    shown["telemetry"] = httpx.get(f"http://127.0.0.1:{edge.telemetry_port}/stats/prometheus").text
    shown["log"] = edge.log.read_text()
    return shown


def spans_of(batches: list[bytes], answers: list[httpx.Response]) -> str:
    """Wait until the spans of all ``answers`` were exported; return all batches as text."""
    wanted = [answer.headers["x-request-id"].encode() for answer in answers]
    deadline = time.monotonic() + 20
    while not all(any(request_id in batch for batch in batches) for request_id in wanted):
        assert time.monotonic() < deadline, "the spans were not exported"
        time.sleep(0.1)
    return b"".join(batches).decode("latin-1")
