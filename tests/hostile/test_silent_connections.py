"""Attack without a key: connections that send nothing, half a head, the start of HTTP/2, or refused requests."""

import collections
import contextlib
import socket
import time

import pytest

from harness.attacks.connections import OPENINGS, is_open
from harness.stacks.attacked import ATTACK_SECONDS, FULL, MIB, Attacked, unharmed_neighbour
from harness.waiting import eventually

pytestmark = pytest.mark.service

CONNECTIONS = 900 if FULL else 300
HEAD_SECONDS = 10.0
"""The default `timeouts.request_headers_seconds` and `timeouts.http2_idle_seconds`."""


def test_silent_connections_do_not_harm_and_are_closed(attacked: Attacked) -> None:
    before = attacked.edge_bytes()
    with contextlib.ExitStack() as opened:
        clients: list[tuple[str, socket.socket]] = []
        with unharmed_neighbour(attacked, "silent connections"):
            for number in range(CONNECTIONS):
                opening = list(OPENINGS)[number % len(OPENINGS)]
                client = opened.enter_context(
                    socket.create_connection(("127.0.0.1", attacked.edge.port), timeout=20)
                )
                client.sendall(OPENINGS[opening])
                client.setblocking(False)
                clients.append((opening, client))
            began = time.monotonic()
            # The first kind counts connections from which no byte has come.
            kinds = ("envoy_listener_downstream_pre_cx_active", "envoy_listener_downstream_cx_active")
            most = sum(attacked.edge.metric(kind) for kind in kinds)
            grown = attacked.edge_bytes() - before
            while time.monotonic() - began < ATTACK_SECONDS:
                for opening, client in clients:
                    with contextlib.suppress(OSError):
                        client.send(
                            b"a" if opening == "half a head" else b""
                        )  # A byte a second is no progress.
                time.sleep(1.0)
        print(f"{most:.0f} connections open at once, edge +{grown // MIB} MiB")
        assert most >= CONNECTIONS * 0.6, "the attack must have happened"
        assert grown < CONNECTIONS * 0.2 * MIB

        def left() -> dict[str, int]:
            return dict(collections.Counter(opening for opening, client in clients if is_open(client)))

        eventually(
            lambda: not left(),
            lambda: f"connections without an authenticated request are still open: {left()}",
            seconds=HEAD_SECONDS + 20,
        )
