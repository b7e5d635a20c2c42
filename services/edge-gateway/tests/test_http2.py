"""HTTP/2 frames that no client library sends: no frame reaches the router as a different request."""

import socket
import time
from dataclasses import dataclass

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset

from harness.judges.edge_corpus import BODY
from harness.servers.edges import CHAT, CLIENT_KEY, Edge
from harness.servers.recording_upstream import RecordingUpstream

pytestmark = pytest.mark.service

Headers = list[tuple[str, str]]
AUTHORIZATION = ("authorization", f"Bearer {CLIENT_KEY}")
GOOD: Headers = [
    (":method", "POST"),
    (":path", CHAT),
    (":scheme", "http"),
    (":authority", "a"),
    AUTHORIZATION,
    ("content-type", "application/json"),
]


@dataclass
class Answer:
    """The result of a stream: a status and a body, or a reset, or a closed connection."""

    status: int = 0
    body: bytes = b""
    cut_off: bool = False


def ask(port: int, headers: Headers, body: bytes, seconds: float = 20.0) -> Answer:
    """Send one request with whatever headers over a connection of its own."""
    config = H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    protocol = H2Connection(config)
    protocol.initiate_connection()
    protocol.send_headers(1, headers, end_stream=not body)
    if body:
        protocol.send_data(1, body, end_stream=True)
    answer = Answer()
    deadline = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        client.sendall(protocol.data_to_send())
        while time.monotonic() < deadline:
            try:
                data = client.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                answer.cut_off = True
                return answer
            for event in protocol.receive_data(data):
                if isinstance(event, ResponseReceived):
                    answer.status = int(dict(event.headers)[b":status"])
                elif isinstance(event, DataReceived):
                    answer.body += event.data
                elif isinstance(event, StreamReset | ConnectionTerminated):
                    answer.cut_off = True
                    return answer
                elif isinstance(event, StreamEnded):
                    return answer
            client.sendall(protocol.data_to_send())
    raise AssertionError("no end of the answer")


def without(name: str) -> Headers:
    return [header for header in GOOD if header[0] != name]


def instead(name: str, value: str) -> Headers:
    return [(header[0], value if header[0] == name else header[1]) for header in GOOD]


def test_a_good_request_passes_byte_for_byte(edge: Edge, upstream: RecordingUpstream) -> None:
    answer = ask(edge.port, GOOD, BODY)
    assert (answer.status, answer.cut_off) == (200, False)
    assert [request.body for request in upstream.received] == [BODY]
    assert upstream.received[0].value("x-client-id") == "tester"


# What is wrong, the headers, and the status that is right (0: the stream or the connection is cut off).
BAD: list[tuple[str, Headers, int]] = [
    ("a length that is too small", [*GOOD, ("content-length", "5")], 0),
    ("a length that is too large", [*GOOD, ("content-length", "500")], 0),
    ("a transfer coding", [*GOOD, ("transfer-encoding", "chunked")], 0),
    ("a connection header", [*GOOD, ("connection", "x-client-id")], 0),
    ("a capital letter in a name", [*GOOD, ("X-Upper", "a")], 0),
    ("two paths", [*GOOD[:2], (":path", "/metrics"), *GOOD[2:]], 0),
    ("a pseudo header at the end", [*GOOD, (":path", "/metrics")], 0),
    ("an unknown pseudo header", [*GOOD[:4], (":client", "evil"), *GOOD[4:]], 0),
    ("no authority", without(":authority"), 0),
    ("no scheme", without(":scheme"), 0),
    ("no path", without(":path"), 0),
    ("a request in the path", instead(":path", f"{CHAT} HTTP/1.1\r\nx-client-id: evil"), 0),
    ("a line break in a value", [*GOOD, ("x-a", "b\r\nx-client-id: evil")], 0),
    ("a newline in a value", [*GOOD, ("x-a", "b\nx-client-id: evil")], 0),
    ("a NUL in a value", [*GOOD, ("x-a", "b\0c")], 0),
    ("another te", [*GOOD, ("te", "gzip")], 0),
    ("a tunnel", [(":method", "CONNECT"), (":authority", "a:80"), AUTHORIZATION], 401),
    ("two credentials", [*GOOD, AUTHORIZATION], 401),
    ("no credential", without("authorization"), 401),
    ("two authorities in one", instead(":authority", "a,b"), 400),
    ("a body where none is read", [(":method", "GET"), (":path", "/v1/models"), *GOOD[2:5]], 400),
]


@pytest.mark.parametrize(("what", "headers", "status"), BAD, ids=[case[0] for case in BAD])
def test_a_bad_request_is_refused_or_cut_off(
    edge: Edge, upstream: RecordingUpstream, what: str, headers: Headers, status: int
) -> None:
    answer = ask(edge.port, headers, b"" if what == "a tunnel" else BODY)
    assert (answer.status, answer.cut_off) == (status, status == 0), (what, answer)
    assert not status or b'"error"' in answer.body
    assert upstream.count == 0, what


def test_a_header_with_an_underscore_is_dropped(edge: Edge, upstream: RecordingUpstream) -> None:
    answer = ask(edge.port, [*GOOD, ("x_client_id", "evil"), ("x-note", "a")], BODY)
    assert (answer.status, answer.cut_off) == (200, False), "no reset"
    assert not [name for name, _ in upstream.received[0].headers if "_" in name]
    assert upstream.received[0].value("x-note") == "a"


def test_a_host_header_does_not_stand_beside_the_authority(edge: Edge, upstream: RecordingUpstream) -> None:
    assert ask(edge.port, [*GOOD, ("host", "evil")], BODY).status == 200
    assert upstream.received[0].value("host") == "a"
