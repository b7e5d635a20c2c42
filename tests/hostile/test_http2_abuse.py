"""Attack: HTTP/2 frames that cost the edge more than the client, with a valid key."""

import socket
import time

import pytest
from h2.events import Event, ResponseReceived, StreamEnded

from harness.attacks.frames import FLOODS, closed
from harness.clients.http2 import Http2Client, http2_client, post_headers
from harness.servers.edges import CHAT
from harness.stacks.attacked import KEYS, MIB, Attacked

pytestmark = pytest.mark.service


@pytest.mark.parametrize("name", FLOODS)
def test_frames_that_cost_the_edge_end_their_connection(attacked: Attacked, name: str) -> None:
    attack, seconds = FLOODS[name]
    before = attacked.edge_bytes()
    with socket.create_connection(("127.0.0.1", attacked.edge.port), timeout=seconds) as client:
        Http2Client(client)
        began = time.monotonic()
        assert closed(client, attack(), seconds), f"still open after {time.monotonic() - began:.0f} s"
    grown = attacked.edge_bytes() - before
    print(f"{name}: closed after {time.monotonic() - began:.1f} s, edge +{grown // MIB} MiB")
    assert grown < 32 * MIB
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    assert attacked.post("neighbour", body).status_code == 200


def test_one_connection_keeps_working_below_these_rates(attacked: Attacked) -> None:
    """A client that pings and changes its settings now and then is not taken for an attacker."""
    with http2_client(attacked.edge.port) as client:
        for _ in range(20):
            client.protocol.ping(b"12345678")
            client.protocol.update_settings({})
            client.flush()
            assert client.events(1.0) is not None
        client.protocol.send_headers(1, post_headers(CHAT, KEYS["neighbour"][0]))
        body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":1}'
        client.protocol.send_data(1, body, end_stream=True)
        client.flush()
        found: list[Event] = []
        until = time.monotonic() + 20
        while not any(isinstance(event, StreamEnded) for event in found) and time.monotonic() < until:
            events = client.events(1.0)
            assert events is not None, "the edge closed the connection"
            found += events
        (answer,) = [event for event in found if isinstance(event, ResponseReceived)]
        assert (b":status", b"200") in answer.headers
