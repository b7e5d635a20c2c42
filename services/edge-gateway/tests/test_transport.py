"""TLS at the edge and towards the router, and the bounds on connections."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from harness.processes import answers
from harness.servers.edges import CHAT, CLIENT_KEY, GOOD_BODY, Edge, running_edge
from harness.servers.recording_upstream import RecordingUpstream, recording_upstream

pytestmark = pytest.mark.service


@dataclass(frozen=True)
class Certificates:
    """An authority and where the edge finds its certificate."""

    authority: trustme.CA
    directory: Path

    def issue(self) -> None:
        """Put a new certificate for localhost in place, the way a mounted Secret changes."""
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        for name, blob in (("tls.key", issued.private_key_pem), ("tls.crt", issued.cert_chain_pems[0])):
            draft = self.directory / f".{name}"
            blob.write_to_path(str(draft))
            draft.replace(self.directory / name)

    def context(self) -> ssl.SSLContext:
        """Return a client's context that trusts the authority."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(trustme.CA(), tmp_path_factory.mktemp("certificates"))
    made.issue()
    return made


@pytest.fixture(scope="module")
def tls_edge(
    certificates: Certificates, module_upstream: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Edge]:
    files = {
        "certificate_file": str(certificates.directory / "tls.crt"),
        "private_key_file": str(certificates.directory / "tls.key"),
    }
    with running_edge(tmp_path_factory.mktemp("tls"), module_upstream.port, {"tls": files}) as running:
        yield running


@pytest.mark.parametrize("http2", [True, False])
def test_clients_speak_tls_with_http2_or_http1(
    tls_edge: Edge, certificates: Certificates, upstream: RecordingUpstream, http2: bool
) -> None:
    with httpx.Client(http2=http2, http1=not http2, verify=certificates.context()) as client:
        answer = client.post(tls_edge.url + CHAT, json=GOOD_BODY, headers=tls_edge.headers())
    assert answer.status_code == 200
    assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert upstream.received[0].value("x-forwarded-proto") == "https"


def handshake(port: int, context: ssl.SSLContext) -> str:
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    with raw, context.wrap_socket(raw, server_hostname="localhost") as secured:
        return str(secured.version())


def test_a_modern_handshake_succeeds(tls_edge: Edge, certificates: Certificates) -> None:
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        context = certificates.context()
        context.minimum_version = context.maximum_version = version
        assert handshake(tls_edge.port, context) == name


@pytest.mark.parametrize(
    "ciphers", ["AES128-SHA", "ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"]
)
def test_a_cipher_without_forward_secrecy_or_authentication_is_refused(
    tls_edge: Edge, certificates: Certificates, ciphers: str
) -> None:
    context = certificates.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers + ":@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="handshake failure"):
        handshake(tls_edge.port, context)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_1_is_refused(tls_edge: Edge, certificates: Certificates) -> None:
    context = certificates.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="protocol version"):
        handshake(tls_edge.port, context)


def test_plain_text_reaches_nothing(tls_edge: Edge, upstream: RecordingUpstream) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{tls_edge.port}/v1/models", headers=tls_edge.headers())
    assert upstream.count == 0


def serial(port: int, context: ssl.SSLContext) -> str:
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    with raw, context.wrap_socket(raw, server_hostname="localhost") as secured:
        certificate = secured.getpeercert()
        assert certificate
        return str(certificate["serialNumber"])


def test_a_replaced_certificate_is_used_without_a_restart(tls_edge: Edge, certificates: Certificates) -> None:
    before = serial(tls_edge.port, certificates.context())
    certificates.issue()
    deadline = time.monotonic() + 15
    while serial(tls_edge.port, certificates.context()) == before:
        assert time.monotonic() < deadline, "the old certificate is still served"
        time.sleep(0.1)


def test_the_router_may_demand_a_certificate_of_the_edge(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, client = authority.issue_cert("router.test"), authority.issue_cert("edge.test")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    client.private_key_pem.write_to_path(str(tmp_path / "edge.key"))
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "edge.crt"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    trusted = {"ca_file": str(tmp_path / "ca.pem"), "server_name": "router.test"}
    proven = {
        **trusted,
        "certificate_file": f"{tmp_path}/edge.crt",
        "private_key_file": f"{tmp_path}/edge.key",
    }
    with recording_upstream(tls=context) as upstream:
        with running_edge(tmp_path / "proven", upstream.port, {"router": {"tls": proven}}) as edge:
            assert edge.post().status_code == 200
            assert upstream.count == 1
        with running_edge(tmp_path / "unproven", upstream.port, {"router": {"tls": trusted}}) as edge:
            assert edge.post().status_code == 503
        wrong_name = {**proven, "server_name": "other.test"}
        with running_edge(tmp_path / "wrong", upstream.port, {"router": {"tls": wrong_name}}) as edge:
            assert edge.post().status_code == 503
        assert upstream.count == 1


def test_connections_beyond_the_limit_are_closed_and_telemetry_still_answers(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    with running_edge(tmp_path, upstream.port, {"bounds": {"max_connections": 20}}) as edge:
        held = [socket.create_connection(("127.0.0.1", edge.port), timeout=5) for _ in range(40)]
        closed: set[int] = set()
        deadline = time.monotonic() + 20
        while len(closed) < 20:
            assert time.monotonic() < deadline, f"only {len(closed)} of 40 were closed"
            for connection in held:
                connection.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    try:
                        if connection.recv(1) == b"":
                            closed.add(connection.fileno())
                    except ConnectionError:
                        closed.add(connection.fileno())
        assert answers(f"http://127.0.0.1:{edge.telemetry_port}/ready")()
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                assert edge.post().status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, "it must serve again once they are gone"
                time.sleep(0.1)


def test_an_edge_short_of_memory_sheds_the_largest_and_lives(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    """64 MiB of heap, and up to 480 MiB of bodies that are begun and never ended.

    Envoy looks at its heap from time to time, later on a busy machine: it overshoots, but it does not take it all.
    """
    settings = {
        "bounds": {"max_heap_bytes": 64 << 20, "max_body_bytes": 8 << 20},
        "timeouts": {"request_body_seconds": 5},
    }
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {CLIENT_KEY}\r\n"
        "content-type: application/json\r\ncontent-length: 8000000\r\n\r\n"
    )
    with running_edge(tmp_path, upstream.port, settings) as edge:
        held, turned_away, largest = [], 0, 0
        while len(held) < 120 and turned_away < 10:
            connection = socket.create_connection(("127.0.0.1", edge.port), timeout=1)
            held.append(connection)
            try:
                connection.sendall(head.encode() + b" " * (4 << 20))
            except OSError:
                turned_away += 1
            largest = max(largest, resident_bytes(edge.process.pid))
            time.sleep(0.05)  # the look at the heap is another thread's, which must get its turn
        assert turned_away > 0, "it took everything"
        assert largest < 400 << 20, "heap and everything around it stay within reach of the limit"
        assert edge.process.poll() is None
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 40
        while True:
            try:
                if edge.post().status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, "it must recover once the memory is free"
            time.sleep(0.2)
    assert upstream.count == 1


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def test_a_port_that_is_taken_is_an_error(tmp_path: Path, edge: Edge) -> None:
    """The edge reports the taken port and exits at once."""
    taken = socket.create_server(("127.0.0.1", 0))
    own = running_edge(tmp_path, edge.port, port=taken.getsockname()[1])
    with taken, pytest.raises(AssertionError, match="Address already in use"), own:
        pass
