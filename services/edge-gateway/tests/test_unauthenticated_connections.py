"""Connections that nobody has authenticated end within seconds: after a TLS handshake, a health check, a refusal."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h2.exceptions
import httpx
import pytest
import trustme

from harness.clients.http2 import http2_client
from harness.servers.edges import CHAT, GOOD_BODY, Edge, running_edge
from harness.servers.recording_upstream import RecordingUpstream

pytestmark = pytest.mark.service

IDLE_SECONDS = 2
SILENT = 75


def closed_within(connections: list[socket.socket], seconds: float) -> float:
    """Return the share of connections that the peer closes within ``seconds``."""
    deadline = time.monotonic() + seconds
    closed = 0
    for connection in connections:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        with contextlib.suppress(TimeoutError):
            try:
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass
            closed += 1
    return closed / len(connections)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_settings(directory: Path, authority: trustme.CA) -> dict[str, dict[str, str]]:
    """Write a certificate and return the edge's settings with it."""
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(directory / "tls.key"))
    issued.cert_chain_pems[0].write_to_path(str(directory / "tls.crt"))
    return {
        "tls": {
            "certificate_file": str(directory / "tls.crt"),
            "private_key_file": str(directory / "tls.key"),
        }
    }


@pytest.fixture(scope="module")
def tls_edge(
    authority: trustme.CA, module_upstream: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Edge]:
    directory = tmp_path_factory.mktemp("tls")
    timeouts = {"request_headers_seconds": 2, "tls_idle_seconds": IDLE_SECONDS, "http2_idle_seconds": 2}
    settings = {**tls_settings(directory, authority), "timeouts": timeouts}
    with running_edge(directory, module_upstream.port, settings) as running:
        yield running


def after_handshake(edge: Edge, authority: trustme.CA, protocols: list[str]) -> ssl.SSLSocket:
    """Return a connection whose handshake is complete."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if protocols:
        context.set_alpn_protocols(protocols)
    raw = socket.create_connection(("127.0.0.1", edge.port), timeout=20)
    return context.wrap_socket(raw, server_hostname="localhost")


@contextlib.contextmanager
def second_client(edge: Edge, authority: trustme.CA) -> Iterator[list[int]]:
    """Send a request every 0.2 s, each second one over a new connection; yields the statuses so far."""
    statuses: list[int] = []
    stop = threading.Event()
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def send() -> None:
        with httpx.Client(verify=context, timeout=20) as kept:
            while not stop.wait(0.2):
                if len(statuses) % 2:
                    answer = kept.post(edge.url + CHAT, json=GOOD_BODY, headers=edge.headers())
                else:
                    answer = httpx.post(
                        edge.url + CHAT, json=GOOD_BODY, headers=edge.headers(), verify=context, timeout=20
                    )
                statuses.append(answer.status_code)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("protocols", [[], ["http/1.1"], ["h2"]], ids=["no ALPN", "HTTP/1", "HTTP/2"])
def test_connections_that_are_silent_after_the_handshake_are_closed(
    tls_edge: Edge, authority: trustme.CA, upstream: RecordingUpstream, protocols: list[str]
) -> None:
    before = tls_edge.metric("envoy_listener_downstream_cx_total")
    with contextlib.ExitStack() as opened, second_client(tls_edge, authority) as statuses:
        silent: list[socket.socket] = [
            opened.enter_context(after_handshake(tls_edge, authority, protocols)) for _ in range(SILENT)
        ]
        assert tls_edge.metric("envoy_listener_downstream_cx_total") >= before + SILENT, "the attack happened"
        # An HTTP/2 connection is drained: five seconds after GOAWAY it is closed.
        assert closed_within(silent, IDLE_SECONDS + 15) == 1.0
    assert len(statuses) >= 5
    assert set(statuses) == {200}, "a second client is not affected"


def test_a_proxys_connection_stays_idle_after_the_handshake(
    authority: trustme.CA, module_upstream: RecordingUpstream, tmp_path: Path
) -> None:
    """A load balancer must close an idle connection first: `connection_idle_seconds` applies to it."""
    settings = {
        **tls_settings(tmp_path, authority),
        "trusted_proxies": 1,
        "timeouts": {"tls_idle_seconds": 1},
    }
    with (
        running_edge(tmp_path, module_upstream.port, settings) as edge,
        after_handshake(edge, authority, ["http/1.1"]) as idle,
    ):
        assert closed_within([idle], 4) == 0.0


def request(path: str, method: str = "GET", *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: a", *headers, "", ""]).encode()


def statuses_on(edge: Edge, text: bytes) -> tuple[bytes, bool]:
    """Return the status of a request and whether its connection is closed after the response."""
    with socket.create_connection(("127.0.0.1", edge.port), timeout=20) as client:
        client.sendall(text)
        received = client.recv(65536)
        return received.split(b" ")[1], closed_within([client], 8) == 1.0


def test_a_health_check_does_not_keep_a_connection(edge: Edge) -> None:
    assert statuses_on(edge, request("/healthz")) == (b"200", True)


def test_a_preflight_request_does_not_keep_a_connection(
    module_upstream: RecordingUpstream, tmp_path: Path
) -> None:
    cors = {"cors": {"allow_origins": ["https://chat.example.com"]}}
    preflight = request(
        *(CHAT, "OPTIONS", "origin: https://chat.example.com", "access-control-request-method: POST")
    )
    with running_edge(tmp_path, module_upstream.port, cors) as edge:
        assert statuses_on(edge, preflight) == (b"200", True)


@pytest.mark.parametrize("path", ["/v1/models", "/nothing", "/healthz"])
def test_requests_without_a_key_do_not_keep_a_connection_of_http2(edge: Edge, path: str) -> None:
    """One request a second keeps the connection busy; the edge drains it at the fifth."""
    headers = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "a")]
    answered = 0
    with http2_client(edge.port) as client:
        # The library refuses to use a connection after GOAWAY.
        with contextlib.suppress(h2.exceptions.ProtocolError):
            while answered < 20:
                client.protocol.send_headers(2 * answered + 1, headers, end_stream=True)
                client.flush()
                if client.events(1.0) is None:
                    break
                answered += 1
                time.sleep(1.0)
        assert 4 <= answered <= 10
        assert closed_within([client.socket], 15) == 1.0
