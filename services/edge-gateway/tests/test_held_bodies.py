"""Memory limit for one client's slow request bodies, over many connections and over a single connection."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from h2.events import ResponseReceived

from harness.clients.http2 import http2_client, post_headers
from harness.judges.edge_corpus import BODY, KEY
from harness.servers.edges import CHAT, CLIENT_KEY, GOOD_BODY, LOAD_KEY, Edge, running_edge
from harness.servers.recording_upstream import RecordingUpstream
from harness.waiting import eventually

pytestmark = pytest.mark.service

MIB = 1024 * 1024
BODY_BYTES = 4 * MIB
CLIENT_BYTES = 32 * MIB
SETTINGS = {
    "bounds": {
        "max_body_bytes": BODY_BYTES,
        "max_client_body_bytes": CLIENT_BYTES,
        "max_heap_bytes": 700 * MIB,
    },
}


@pytest.fixture
def bounded(upstream: RecordingUpstream, tmp_path: Path) -> Iterator[Edge]:
    with running_edge(tmp_path, upstream.port, SETTINGS) as running:
        yield running


def resident_bytes(edge: Edge) -> int:
    fields = Path(f"/proc/{edge.process.pid}/statm").read_text().split()
    return int(fields[1]) * 4096


def slow_post(edge: Edge, stack: contextlib.ExitStack) -> socket.socket:
    """Send all of a body but its last 64 bytes; return the connection."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=20))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n".encode() + KEY + b"content-type: application/json\r\n"
    client.sendall(head + b"content-length: %d\r\n\r\n" % BODY_BYTES)
    client.setblocking(False)
    return client


def push(clients: list[socket.socket], bytes_each: int) -> None:
    """Send as much of every body as the edge takes, round by round, until all is sent or refused."""
    left = dict.fromkeys(clients, bytes_each)
    chunk = b" " * 65536
    deadline = time.monotonic() + 30
    while left and time.monotonic() < deadline:
        for client in list(left):
            try:
                left[client] -= client.send(chunk[: left[client]])
            except BlockingIOError:
                continue
            except ConnectionError:
                left[client] = 0
            if left[client] <= 0:
                del left[client]


def status_of(client: socket.socket) -> int | None:
    """Return the status that has arrived on a connection, None if none has."""
    try:
        data = client.recv(65536)
    except BlockingIOError:
        return None
    except ConnectionError:
        return 429
    return int(data.split(b" ")[1]) if data else 429


def test_slow_bodies_of_one_client_are_bounded_and_another_is_served(
    bounded: Edge, upstream: RecordingUpstream
) -> None:
    before = resident_bytes(bounded)
    with contextlib.ExitStack() as stack:
        clients = [slow_post(bounded, stack) for _ in range(100)]
        push(clients, BODY_BYTES - 64)
        statuses = [status_of(client) for client in clients]
        held = statuses.count(None)
        assert held >= 4, "the attack must have happened: some bodies are being held"
        assert statuses.count(429) >= 100 - CLIENT_BYTES // BODY_BYTES - 2
        assert resident_bytes(bounded) - before < CLIENT_BYTES + 64 * MIB
        for _ in range(50):
            assert bounded.post(key=LOAD_KEY).status_code == 200
    assert upstream.count == 50


def test_a_client_is_served_again_when_its_slow_bodies_are_gone(
    bounded: Edge, upstream: RecordingUpstream
) -> None:
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            clients = [slow_post(bounded, stack) for _ in range(40)]
            push(clients, 4096)
            eventually(lambda: 429 in [status_of(client) for client in clients], "the bound is reached")  # noqa: B023
    large = {**GOOD_BODY, "x": "a" * (BODY_BYTES - 200)}

    def served() -> bool:
        return bounded.post(large).status_code == 200

    eventually(served, "the leases of aborted requests have ended", seconds=10)
    for _ in range(30):
        assert served(), "requests that have ended hold nothing"


def test_one_connection_of_http2_holds_two_bodies(bounded: Edge, upstream: RecordingUpstream) -> None:
    """100 streams announce a body each; two are taken, and a request after them is served on another connection."""
    streams = [1 + 2 * number for number in range(50)]
    statuses: dict[int, bytes] = {}
    with http2_client(bounded.port) as client:
        for stream in streams:
            client.protocol.send_headers(stream, post_headers(CHAT, CLIENT_KEY, BODY_BYTES))
        client.flush()

        def refused() -> bool:
            for event in client.events(20) or []:
                if isinstance(event, ResponseReceived):
                    statuses[event.stream_id] = dict(event.headers)[b":status"]
            return len(statuses) == len(streams) - 2

        eventually(refused, lambda: f"48 streams are refused: {len(statuses)}")
        assert set(statuses.values()) == {b"429"}
        assert bounded.post(BODY).status_code == 200


def test_the_heap_leaves_room_in_a_container_of_one_gibibyte() -> None:
    from edge_gateway.settings import Bounds

    bounds = Bounds()
    assert bounds.max_heap_bytes <= 0.7 * 1024 * MIB
    assert bounds.max_client_body_bytes * 4 < bounds.max_heap_bytes, "several clients at their bound fit"
