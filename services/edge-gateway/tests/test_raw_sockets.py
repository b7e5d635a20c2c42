"""Input that only a raw socket can send is refused in OpenAI's format, or harmless."""

import re
import socket
import threading
import time

import httpx
import pytest

from harness.clients.raw_http import exchange, read_answer
from harness.judges.edge_corpus import BODY, HARMLESS, KEY, RAW_REFUSED, get, post
from harness.servers.edges import CHAT, Edge
from harness.servers.recording_upstream import RecordingUpstream

pytestmark = pytest.mark.service

UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


@pytest.mark.parametrize(
    ("what", "request_bytes", "statuses"), RAW_REFUSED, ids=[case[0] for case in RAW_REFUSED]
)
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
    assert upstream.received[0].trailers == b"", "a client's trailers are no headers and go no further"


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


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
def test_a_head_request_is_answered_405_without_a_body(
    edge: Edge, upstream: RecordingUpstream, path: str
) -> None:
    answer = httpx.head(edge.url + path, headers=edge.headers())
    assert answer.status_code == 405
    assert answer.headers["allow"] in ("GET", "POST")
    assert upstream.count == 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"HEAD /healthz HTTP/1.0\r\n\r\n",
    ],
    ids=["HEAD", "HTTP/1.0", "HEAD by HTTP/1.0"],
)
def test_old_health_checks_are_answered(edge: Edge, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=20) as client:
        client.sendall(request_bytes)
        assert client.recv(65536).split(b" ")[1] == b"200"


def test_a_body_that_waits_to_be_asked_for_is_asked_for(edge: Edge, upstream: RecordingUpstream) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=20) as client:
        client.sendall(post(b"expect: 100-continue\r\n", body=b""))
        received = b""
        while b"\r\n\r\n" not in received:
            received += client.recv(65536)
        assert received.startswith(b"HTTP/1.1 100 ")
        assert upstream.count == 0, "the body has not been sent yet"
        client.sendall(BODY)
        assert read_answer(client, 20).status == 200
    assert [request.body for request in upstream.received] == [BODY]


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
