"""Attack: HTTP/2 frames, windows and bodies over TLS, where client and edge agree on HTTP/2 by ALPN."""

import time
from collections.abc import Iterator

import httpx
import pytest
from h2.events import DataReceived
from h2.settings import SettingCodes

from harness.attacks.bodies import two_slow_bodies_are_taken
from harness.attacks.frames import AT_ONCE, FLOODS, closed
from harness.clients.http2 import Http2Client, connected, http2_client, post_headers
from harness.servers.edges import CHAT
from harness.stacks.attacked import (
    ATTACK_SECONDS,
    FULL,
    KEYS,
    MIB,
    Attacked,
    unharmed_neighbour,
    with_tls,
)

pytestmark = pytest.mark.service

AT_ONCE_FLOODS = {name: flood for name, flood in FLOODS.items() if FULL or flood[1] <= AT_ONCE}
"""The others wait for the end of an idle connection."""
UNREAD_STREAMS = 30
"""Fewer than the slots that one client may take."""


@pytest.fixture(scope="module")
def secured(attacked: Attacked, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with with_tls(attacked, tmp_path_factory.mktemp("secured")) as stack:
        yield stack


def test_frames_over_tls_end_their_connection_and_harm_no_second_client(secured: Attacked) -> None:
    before = secured.edge_bytes()
    with unharmed_neighbour(secured, "frames over TLS"):
        for name, (attack, seconds) in AT_ONCE_FLOODS.items():
            with connected(secured.edge.port, seconds, secured.edge.tls()) as client:
                Http2Client(client)
                began = time.monotonic()
                assert closed(client, attack(), seconds), f"{name}: still open after {seconds:.0f} s"
            grown = secured.edge_bytes() - before
            print(f"{name}: closed after {time.monotonic() - began:.1f} s, edge +{grown // MIB} MiB")
            assert grown < 32 * MIB, name
    for counter in ("envoy_http_downstream_cx_ssl_total", "envoy_http_downstream_cx_http2_total"):
        assert secured.edge.metric(counter) >= len(AT_ONCE_FLOODS), "all attacks spoke HTTP/2 over TLS"


def test_slow_bodies_over_one_connection_with_tls(secured: Attacked) -> None:
    """100 streams announce a body each and send what the windows allow; the edge takes two of them."""
    two_slow_bodies_are_taken(secured, "slow bodies over TLS")


def test_answers_without_a_window_are_bounded(secured: Attacked) -> None:
    """Streams whose client opens no window: the edge keeps little of each and stops reading it."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":%d,"stream":true,"ignore_eos":true}'
    streams = [1 + 2 * number for number in range(UNREAD_STREAMS)]
    before = secured.edge_bytes()
    with (
        unharmed_neighbour(secured, "no window"),
        http2_client(secured.edge.port, tls=secured.edge.tls()) as client,
    ):
        client.protocol.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        for stream in streams:
            client.protocol.send_headers(stream, post_headers(CHAT, KEYS["fast"][0]))
            client.protocol.send_data(stream, body % 600, end_stream=True)
        client.flush()
        received = 0
        until = time.monotonic() + max(8.0, ATTACK_SECONDS)
        while time.monotonic() < until:
            events = client.events(0.5)
            assert events is not None, "the edge closed the connection"
            received += sum(len(event.data) for event in events if isinstance(event, DataReceived))
        grown = secured.edge_bytes() - before
        sent = secured.edge.metric("envoy_cluster_upstream_rq_active")
    print(f"{sent:.0f} answers unread, {received} bytes received, edge +{grown // MIB} MiB")
    assert received == 0
    assert grown < 32 * MIB


def test_an_http2_client_over_tls_is_served(secured: Attacked) -> None:
    with httpx.Client(http2=True, http1=False, verify=secured.edge.tls() or True) as client:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        answer = client.post(secured.edge.url + CHAT, json=body, headers=secured.headers("neighbour"))
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
