"""Attack: bodies that stop 64 bytes before their end, over hundreds of connections and over one HTTP/2 connection."""

import contextlib
import socket
import time

import pytest
from h2.events import ResponseReceived

from harness.clients.http2 import http2_client, post_headers
from harness.servers.edges import CHAT
from harness.stacks.attacked import ATTACK_SECONDS, FULL, KEYS, MIB, Attacked, unharmed_neighbour
from harness.waiting import eventually

pytestmark = pytest.mark.service

BODY_BYTES = 10 * MIB
CLIENT_BYTES = 128 * MIB
CONNECTIONS = 330 if FULL else 80


def slow_post(stack: Attacked, opened: contextlib.ExitStack) -> socket.socket:
    """Announce a body on a new connection."""
    client = opened.enter_context(socket.create_connection(("127.0.0.1", stack.edge.port), timeout=20))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEYS['fast'][0]}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {BODY_BYTES}\r\n\r\n"
    client.sendall(head.encode())
    client.setblocking(False)
    return client


def push(clients: list[socket.socket], bytes_each: int, seconds: float) -> None:
    """Send as much of every body as the edge takes, round by round."""
    left = dict.fromkeys(clients, bytes_each)
    deadline = time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        for client in list(left):
            try:
                left[client] -= client.send(b" " * min(65536, left[client]))
            except BlockingIOError:
                continue
            except ConnectionError:
                left[client] = 0
            if left[client] <= 0:
                del left[client]
        time.sleep(0.01)


def is_refused(client: socket.socket) -> bool:
    """Return whether a connection was answered or closed."""
    try:
        client.recv(65536)
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_slow_bodies_over_many_connections(attacked: Attacked) -> None:
    """The buffered bytes of one client stay below its limit; the edge refuses the rest at once."""
    before = attacked.edge_bytes()
    with unharmed_neighbour(attacked, "slow bodies"), contextlib.ExitStack() as opened:
        began = time.monotonic()
        clients = [slow_post(attacked, opened) for _ in range(CONNECTIONS)]
        push(clients, BODY_BYTES - 64, max(20.0, ATTACK_SECONDS))
        refused = sum(is_refused(client) for client in clients)
        grown = attacked.edge_bytes() - before
        eventually(lambda: time.monotonic() - began > ATTACK_SECONDS, "the attack lasts", 90)
    print(f"{CONNECTIONS - refused} of {CONNECTIONS} bodies held, edge +{grown // MIB} MiB")
    assert 4 <= CONNECTIONS - refused <= CLIENT_BYTES // BODY_BYTES + 1, "some are held, most refused"
    assert grown < CLIENT_BYTES + 64 * MIB


def test_slow_bodies_over_one_connection_of_http2(attacked: Attacked) -> None:
    """100 streams announce a body each and send what the windows allow; the edge takes two of them."""
    before = attacked.edge_bytes()
    headers = post_headers(CHAT, KEYS["fast"][0], BODY_BYTES)
    streams = [1 + 2 * number for number in range(100)]
    sent = dict.fromkeys(streams, 0)
    refused: set[int] = set()
    with (
        unharmed_neighbour(attacked, "slow bodies, HTTP/2"),
        http2_client(attacked.edge.port) as client,
    ):
        protocol = client.protocol
        for stream in streams:
            protocol.send_headers(stream, headers)
        deadline = time.monotonic() + max(5.0, ATTACK_SECONDS)
        while time.monotonic() < deadline:
            for stream in streams:
                size = min(protocol.local_flow_control_window(stream), BODY_BYTES - 64 - sent[stream], 16384)
                if stream not in refused and size > 0:
                    protocol.send_data(stream, b" " * size)
                    sent[stream] += size
            client.flush()
            for event in client.events(0.05) or []:
                if isinstance(event, ResponseReceived):
                    assert event.stream_id is not None
                    refused.add(event.stream_id)
        grown = attacked.edge_bytes() - before
    held = sum(sent[stream] for stream in streams if stream not in refused)
    print(
        f"{100 - len(refused)} of 100 streams taken, {held // MIB} MiB sent on them, edge +{grown // MIB} MiB"
    )
    assert len(refused) == 98, "two bodies of one connection are taken"
    assert MIB < held <= 2 * BODY_BYTES, "the attack must have happened: bytes were held"
    assert grown < 2 * BODY_BYTES + 64 * MIB
