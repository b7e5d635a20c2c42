"""Attack: bodies of a few bytes that drip. The rate of requests and the time limit of a body bound their number."""

import contextlib
import socket
import time
from pathlib import Path

import pytest

from harness.attacks.bodies import is_refused
from harness.servers.edges import CHAT, CLIENT_KEY, LOAD_KEY, WIDE, Edge, running_edge
from harness.stacks.attacked import Attacked

pytestmark = pytest.mark.service

RATE, BURST, BODY_SECONDS = 5, 10, 3
ATTACK_SECONDS = 9.0
MOST = BURST + RATE * BODY_SECONDS
LATE_SECONDS = 1.0
"""Envoy may end a body this much later on a busy machine."""


def test_the_connections_of_slow_senders_are_bounded(attacked: Attacked, tmp_path: Path) -> None:
    """The client opens 40 connections a second and sends a byte a second on each; others are served meanwhile."""
    settings = {
        "limits": {"default": {"requests_per_second": RATE, "burst": BURST}, "clients": {"tester": WIDE}},
        "timeouts": {"request_body_seconds": BODY_SECONDS},
    }
    router = int(attacked.router.rpartition(":")[2])
    with running_edge(tmp_path, router, settings) as edge, contextlib.ExitStack() as opened:
        held: list[socket.socket] = []
        sent, served, counts, accepted = 0, 0, [0], 0
        began = time.monotonic()
        while time.monotonic() - began < ATTACK_SECONDS:
            fresh = [dripping(edge, opened) for _ in range(20)]
            sent += len(fresh)
            held += fresh
            time.sleep(0.5)
            held = [client for client in held if not answered(client)]
            accepted += sum(client in held for client in fresh)
            for client in held:
                with contextlib.suppress(OSError):
                    client.send(b" ")
            counts.append(len(held))
            served += edge.post({"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
                                key=CLIENT_KEY).status_code == 200  # fmt: skip
        took = time.monotonic() - began
    print(f"{sent} slow bodies sent, {accepted} accepted, at most {max(counts)} held at once")
    assert served == len(counts) - 1, "the other client is served"
    assert max(counts) >= BURST, "the attack must have happened: bodies were held"
    assert accepted > MOST, "the client took new connections for those that ended"
    assert accepted <= BURST + RATE * (took + 1)
    assert max(counts) <= MOST + RATE * LATE_SECONDS


def dripping(edge: Edge, opened: contextlib.ExitStack) -> socket.socket:
    """Announce a body of 100 bytes and send one."""
    client = opened.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=20))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {LOAD_KEY}\r\n"
    head += "content-type: application/json\r\ncontent-length: 100\r\n\r\n "
    client.sendall(head.encode())
    client.setblocking(False)
    return client


def answered(client: socket.socket) -> bool:
    """Return whether the edge answered; then the connection is closed."""
    ended = is_refused(client)
    if ended:
        client.close()
    return ended
