"""Connections that nobody has authenticated, revoked keys, floods of refused keys."""

import contextlib
import socket
import time
from pathlib import Path

import httpx
import pytest
from h2.events import ResponseReceived

from harness.clients.http2 import Http2Client, http2_client, post_headers
from harness.judges.edge_corpus import BODY, post
from harness.servers.edges import CHAT, CLIENT_KEY, LOAD_KEY, Edge, running_edge, write_keys
from harness.servers.recording_upstream import RecordingUpstream
from harness.waiting import eventually

pytestmark = pytest.mark.service

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
GOAWAY_HEAD = b"\x07\x00\x00\x00\x00\x00"
"""The type, flags and stream of a frame; three bytes of its length come before."""
NEW_KEY = "sk-test-new-0123456789abcdef0123456789abcdef"


def ends(client: socket.socket, seconds: float) -> bool:
    """Return whether the peer closes the connection within ``seconds``."""
    client.settimeout(seconds)
    with contextlib.suppress(TimeoutError):
        try:
            while client.recv(65536):
                pass
        except ConnectionError:
            pass
        return True
    return False


def test_a_connection_that_sends_nothing_is_closed(edge: Edge) -> None:
    """The file's edge waits 2 s for a request's head; an idle connection may stay 660 s."""
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=20))
            for _ in range(50)
        ]
        assert all(ends(client, 20) for client in silent)


@pytest.mark.parametrize(
    ("what", "request_bytes", "status"),
    [
        ("a wrong key", post().replace(CLIENT_KEY.encode(), b"sk-wrong-0123456789abcdef"), b"401"),
        ("an unknown path", b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
        ("a wrong method", b"GET /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
    ],
)
def test_a_connection_without_a_valid_key_is_not_kept(
    edge: Edge, what: str, request_bytes: bytes, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=20) as client:
        client.sendall(request_bytes)
        assert client.recv(65536).split(b" ")[1] == status, what
        assert ends(client, 10), what


def test_a_connection_with_a_valid_key_is_kept(edge: Edge, upstream: RecordingUpstream) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=20) as client:
        client.sendall(post())
        assert client.recv(65536).split(b" ")[1] == b"200"
        assert not ends(client, 4), "longer than the time for a first request"
        client.sendall(post())
        client.settimeout(20)
        assert client.recv(65536).split(b" ")[1] == b"200"


def test_http2_connections_without_a_request_are_closed(edge: Edge, upstream: RecordingUpstream) -> None:
    """The file's edge drains HTTP/2 after 2 s: the preface alone, with settings, and with every ping answered."""
    with (
        contextlib.ExitStack() as stack,
        socket.create_connection(("127.0.0.1", edge.port), timeout=20) as kept,
        http2_client(edge.port) as busy,
    ):
        silent = []
        for number in range(50):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=20))
            client.sendall(PREFACE if number % 2 else PREFACE + SETTINGS_FRAME)
            silent.append(client)
        polite = stack.enter_context(http2_client(edge.port))
        begun = time.monotonic()
        for second in range(10):
            stream = 1 + 2 * second
            busy.protocol.send_headers(stream, post_headers(CHAT, CLIENT_KEY, len(BODY)))
            busy.protocol.send_data(stream, BODY, end_stream=True)
            busy.flush()
            assert status_on(busy) == 200, "a connection with requests stays"
            polite.events(0.1)
            if second in (0, 9):
                kept.sendall(post())
                assert kept.recv(65536).split(b" ")[1] == b"200", "HTTP/1 with a valid key stays"
            time.sleep(max(0.0, begun + second + 1 - time.monotonic()))
        assert all(ends(client, 0.01) for client in [*silent, polite.socket])


def status_on(client: Http2Client) -> int:
    """Return the status of the next response."""
    for _ in range(50):
        events = client.events(5)
        assert events is not None, "the connection was closed"
        for event in events:
            if isinstance(event, ResponseReceived):
                return int(dict(event.headers)[b":status"])
    raise AssertionError("no response")


def test_a_drained_http2_connection_still_answers_a_request(edge: Edge, upstream: RecordingUpstream) -> None:
    """A request that crosses the edge's GOAWAY is served: a short idle timeout loses nothing."""
    with http2_client(edge.port) as client:
        client.protocol.send_headers(1, post_headers(CHAT, CLIENT_KEY, len(BODY)))
        client.protocol.send_data(1, BODY, end_stream=True)
        request = client.protocol.data_to_send()
        received = b""
        while GOAWAY_HEAD not in received:
            received += client.socket.recv(65536)
        assert upstream.count == 0
        client.socket.sendall(request)
        client.protocol.receive_data(received[: received.index(GOAWAY_HEAD) - 3])
        assert status_on(client) == 200


def test_two_credentials_are_named_as_the_fault(edge: Edge, upstream: RecordingUpstream) -> None:
    answer = edge.post(x_api_key=CLIENT_KEY)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "two_credentials"
    assert upstream.count == 0


def test_an_edited_keys_file_holds_within_seconds_on_kept_connections(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    with running_edge(tmp_path, upstream.port) as edge, httpx.Client(timeout=20) as kept:

        def status(key: str) -> int:
            return kept.post(edge.url + CHAT, content=BODY, headers=edge.headers(key)).status_code

        assert (status(CLIENT_KEY), status(NEW_KEY)) == (200, 401)
        write_keys(edge.keys_file, {"tester": [NEW_KEY], "load": [LOAD_KEY]})
        eventually(lambda: status(CLIENT_KEY) == 401, "the removed key is refused", seconds=15)
        assert status(NEW_KEY) == 200
        edge.keys_file.write_text("clients: {}\n")
        eventually(lambda: "routes_not_rewritten" in edge.log.read_text(), "the unusable file is reported")
        assert status(NEW_KEY) == 200, "an unusable file changes nothing"


def test_the_watcher_ends_with_its_envoy(tmp_path: Path, upstream: RecordingUpstream) -> None:
    with running_edge(tmp_path, upstream.port) as edge:
        children = Path(f"/proc/{edge.process.pid}/task/{edge.process.pid}/children")
        watchers = children.read_text().split()
        assert len(watchers) == 1
        edge.process.kill()
        edge.process.wait(10)
        eventually(lambda: not Path(f"/proc/{watchers[0]}").exists(), "the watcher has ended")


def test_a_flood_of_wrong_keys_does_not_flood_the_log(tmp_path: Path, upstream: RecordingUpstream) -> None:
    with running_edge(tmp_path, upstream.port) as edge:
        begun = time.monotonic()
        with httpx.Client(timeout=20) as client:
            for _ in range(300):
                wrong = edge.headers("sk-wrong-0123456789abcdef")
                assert client.post(edge.url + CHAT, content=BODY, headers=wrong).status_code == 401
        seconds = time.monotonic() - begun
        good = edge.post()
        edge.access_line(good.headers["x-request-id"])
        logged = sum(line["code"] == 401 for line in edge.access_lines())
        workers = 2 * (1 + int(edge.metric("envoy_server_concurrency")))
        assert 1 <= logged <= 10 * workers * (seconds + 1)
        assert logged < 300 or seconds > 15
        assert edge.metric("envoy_http_downstream_rq_xx") >= 300, "the counters have all of them"
