"""What a socket can send that no client library would: refused in OpenAI's format, or harmless."""

import re
import socket
import threading
import time

import httpx
import pytest

from harness.edges import CHAT, CLIENT_KEY, Edge
from harness.raw_http import exchange, read_answer
from harness.recording_upstream import RecordingUpstream

pytestmark = pytest.mark.service

KEY = f"authorization: Bearer {CLIENT_KEY}\r\n".encode()
JSON = b"content-type: application/json\r\n"
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
LENGTH = b"content-length: %d\r\n" % len(BODY)
UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def get(path: bytes, extra: bytes = b"", host: bytes = b"Host: a\r\n") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + host + KEY + extra + b"\r\n"


CHUNKED = b"transfer-encoding: chunked\r\n"
UPGRADE = b"connection: upgrade\r\nupgrade: websocket\r\n"


def post(extra: bytes = b"", body: bytes = BODY, length: bytes = LENGTH) -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + KEY + JSON + length + extra + b"\r\n" + body


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + KEY + b"\r\n"

# What is sent, the bytes, and the statuses that are right.
REFUSED: list[tuple[str, bytes, set[int]]] = [
    ("a path in the Host", get(b"/v1/models", host=b"Host: a/health?x=\r\n"), {400}),
    ("no Host", get(b"/v1/models", host=b""), {400}),
    ("an escaped slash", get(b"/v1%2fmodels"), {400}),
    ("an escaped backslash", get(b"/v1%5cmodels"), {400}),
    ("a header with an underscore", get(b"/v1/models", b"x_api_key: a\r\n"), {400}),
    (
        "a length and a transfer coding",
        post(b"transfer-encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED),
        {400},
    ),
    ("two lengths", post(b"content-length: 5\r\n"), {400}),
    ("a negative length", post(length=b"content-length: -5\r\n"), {400}),
    ("a length with a sign", post(length=b"content-length: +5\r\n"), {400}),
    ("a NUL in a header", get(b"/v1/models", b"x-a: b\x00c\r\n"), {400}),
    ("a bare newline in a header", get(b"/v1/models", b"x-a: b\nx-client-id: evil\r\n"), {200, 400}),
    ("a space before the colon", get(b"/v1/models", b"x-a : b\r\n"), {400}),
    ("an unknown transfer coding", post(b"transfer-encoding: xchunked\r\n", length=b""), {400, 501}),
    ("a transfer coding twice", post(b"transfer-encoding: chunked, chunked\r\n", length=b""), {400, 501}),
    ("a header of 30 kB", get(b"/v1/models", b"x-a: " + b"a" * 30_000 + b"\r\n"), {431}),
    ("120 headers", get(b"/v1/models", b"".join(b"x-%d: a\r\n" % n for n in range(120))), {431}),
    ("a path of 20 kB", get(b"/v1/" + b"a" * 20_000), {431}),
    ("not HTTP", b"hello\r\n\r\n", {400}),
    ("a wrong version", b"GET /v1/models HTTP/9.9\r\nHost: a\r\n\r\n", {400, 426}),
    ("HTTP/1.0", b"GET /v1/models HTTP/1.0\r\nHost: a\r\n" + KEY + b"\r\n", {426}),
    ("an unknown method", b"FROB /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", {400, 405}),
    ("CONNECT", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", {400, 401, 403, 404, 405}),
    ("TRACE", b"TRACE /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", {400, 405}),
    (
        "an upgrade to a WebSocket",
        get(b"/v1/models", b"connection: upgrade\r\nupgrade: websocket\r\n"),
        {400, 403},
    ),
    ("a chunk of no size", post(b"transfer-encoding: chunked\r\n", b"zz\r\n", length=b""), {400}),
    (
        "an endless chunk size",
        post(CHUNKED, b"f" * 40 + b"\r\n", length=b""),
        {400},
    ),
    ("an inner path", get(b"/metrics"), {404}),
    ("the debug interface", get(b"/debug/decisions/1"), {404}),
    (
        "the engine's other door",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\n" + KEY + JSON + LENGTH + b"\r\n" + BODY,
        {404},
    ),
    ("the engine's load", get(b"/load"), {404}),
    ("the engine's docs", get(b"/docs"), {404}),
    ("the admin interface", get(b"/config_dump"), {404}),
    ("out of the allowed folder", get(b"/v1/models/../../metrics"), {404}),
    ("out of it, escaped", get(b"/v1/models/%2e%2e/%2e%2e/metrics"), {404}),
    ("other letters", get(b"/V1/MODELS"), {404}),
    ("a path with a parameter", get(b"/v1/models;x=1"), {404}),
    ("a longer path", get(b"/v1/chat/completions/x"), {404}),
    ("the wrong method", get(b"/v1/chat/completions"), {405}),
    (
        "POST to the models",
        b"POST /v1/models HTTP/1.1\r\nHost: a\r\n" + KEY + b"content-length: 0\r\n\r\n",
        {405},
    ),
    ("a compressed body", post(b"content-encoding: gzip\r\n"), {415}),
    ("a form", post().replace(JSON, b"content-type: application/x-www-form-urlencoded\r\n"), {415}),
    ("no content type", post().replace(JSON, b""), {415}),
    (
        "JSON in another alphabet",
        post().replace(JSON, b"content-type: application/json; charset=utf-16\r\n"),
        {415},
    ),
    ("a body that is announced too large", post(length=b"content-length: 100000000\r\n"), {413}),
]

HARMLESS: list[tuple[str, bytes, str]] = [
    ("dot segments", get(b"/public/../v1/models"), "GET /v1/models HTTP/1.1"),
    ("doubled slashes", get(b"//v1//models"), "GET /v1/models HTTP/1.1"),
    ("an absolute URL", get(b"http://evil/v1/models"), "GET /v1/models HTTP/1.1"),
    ("a query string", get(b"/v1/models?x=1"), "GET /v1/models?x=1 HTTP/1.1"),
    ("a model with slashes", get(b"/v1/models/a/b"), "GET /v1/models/a/b HTTP/1.1"),
    ("a folded header", get(b"/v1/models", b"x-a: b\r\n x-client-id: evil\r\n"), "GET /v1/models HTTP/1.1"),
    ("a port in the Host", get(b"/v1/models", host=b"Host: a:80\r\n"), "GET /v1/models HTTP/1.1"),
]


@pytest.mark.parametrize(("what", "request_bytes", "statuses"), REFUSED, ids=[case[0] for case in REFUSED])
def test_it_is_refused_in_the_openai_format_before_the_router(
    edge: Edge, upstream: RecordingUpstream, what: str, request_bytes: bytes, statuses: set[int]
) -> None:
    answer = exchange(edge.port, request_bytes)
    assert answer.status in statuses, (what, answer)
    if answer.status == 200:  # read as one harmless header
        assert upstream.received[0].values("x-client-id") == ["tester"]
        return
    assert upstream.count == 0, what
    error = answer.error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] in {"invalid_request_error", "authentication_error", "permission_error"}
    assert UUID.match(answer.headers["x-request-id"]), "every answer carries an id"


@pytest.mark.parametrize(("what", "request_bytes", "line"), HARMLESS, ids=[case[0] for case in HARMLESS])
def test_one_spelling_of_a_path_reaches_the_router(
    edge: Edge, upstream: RecordingUpstream, what: str, request_bytes: bytes, line: str
) -> None:
    answer = exchange(edge.port, request_bytes)
    assert answer.status == 200, (what, answer)
    assert [request.line for request in upstream.received] == [line]
    assert upstream.received[0].value("x-client-id") == "tester"


@pytest.mark.parametrize(
    "request_bytes",
    [request for _, request, _ in HARMLESS] + [get(b"/v1/models"), post()],
    ids=[what for what, _, _ in HARMLESS] + ["models", "chat"],
)
def test_without_a_key_no_spelling_reaches_the_router(
    edge: Edge, upstream: RecordingUpstream, request_bytes: bytes
) -> None:
    answer = exchange(edge.port, request_bytes.replace(KEY, b""))
    assert answer.status == 401
    assert upstream.count == 0


def test_half_a_header_is_answered_408(edge: Edge, upstream: RecordingUpstream) -> None:
    answer = exchange(edge.port, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nx-slow: ", wait_seconds=20)
    assert answer.status == 408
    assert answer.error["code"] == "request_timeout"
    assert upstream.count == 0


def test_a_body_that_drips_is_answered_408_while_others_are_served(
    edge: Edge, upstream: RecordingUpstream
) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=20) as slow:
        slow.sendall(post(body=b"", length=b"content-length: 1000\r\n"))
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.2):
                try:
                    slow.sendall(b" ")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        for _ in range(5):
            assert edge.post().status_code == 200
        answer = read_answer(slow, 20)
        stop.set()
        dripping.join()
    assert answer.status == 408
    assert upstream.count == 5


def test_a_chunked_body_without_end_is_cut_off_at_the_limit(edge: Edge, upstream: RecordingUpstream) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = exchange(edge.port, post(b"transfer-encoding: chunked\r\n", chunk * 40, length=b""), 15)
    assert answer.status == 413
    assert answer.error["code"] == "request_too_large"
    assert upstream.count == 0


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def test_a_hundred_megabytes_do_not_fill_the_edge(edge: Edge, upstream: RecordingUpstream) -> None:
    before = resident_bytes(edge.process.pid)

    def endless() -> "list[bytes]":
        return [b" " * 65536] * 1600

    for _ in range(3):
        with httpx.Client(timeout=30) as client:
            try:
                status = client.post(
                    edge.url + CHAT, content=iter(endless()), headers=edge.headers()
                ).status_code
            except httpx.TransportError:
                continue  # cut off while still sending: just as good
            assert status == 413
    assert upstream.count == 0
    assert resident_bytes(edge.process.pid) - before < 64 << 20


def test_a_slow_reader_holds_little_and_delays_nobody(edge: Edge, upstream: RecordingUpstream) -> None:
    upstream.manner.body = b"x" * (8 << 20)
    before = resident_bytes(edge.process.pid)
    readers = []
    for _ in range(20):
        reader = socket.create_connection(("127.0.0.1", edge.port), timeout=10)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.sendall(post())
        readers.append(reader)
    deadline = time.monotonic() + 10
    while upstream.count < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert upstream.count == 20
    time.sleep(0.5)
    grown = resident_bytes(edge.process.pid) - before
    upstream.manner.body = b"{}"
    assert edge.post().status_code == 200
    for reader in readers:
        reader.close()
    assert grown < 20 * (2 << 20), f"{grown} bytes for 20 readers of 8 MiB"


@pytest.mark.parametrize(
    "path", ["/config_dump", "/quitquitquit", "/", "/stats", "/stats/prometheus/../../config_dump"]
)
def test_the_telemetry_listener_shows_nothing_else_of_the_admin_interface(edge: Edge, path: str) -> None:
    answer = exchange(edge.telemetry_port, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert answer.status == 404
    answer = exchange(
        edge.telemetry_port, f"POST {path} HTTP/1.1\r\nHost: a\r\ncontent-length: 0\r\n\r\n".encode()
    )
    assert answer.status == 404
