"""JWTs: accepted tokens, claims that are not forwarded, and sources of signing keys."""

import base64
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from harness.clients.raw_http import exchange
from harness.servers.edges import CHAT, CLIENT_KEY, GOOD_BODY, Edge, running_edge
from harness.servers.recording_upstream import RecordingUpstream
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed]

MODELS = "/v1/models"
Signers = list[tuple[rsa.RSAPrivateKey, dict[str, Any]]]
ISSUER, AUDIENCE = "https://issuer.test", "llm"


def new_signer(key_id: str) -> tuple[rsa.RSAPrivateKey, dict[str, Any]]:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key()))
    return private, {**public, "kid": key_id, "alg": "RS256", "use": "sig"}


def token(private: rsa.RSAPrivateKey, key_id: str, **claims: Any) -> str:
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "jwt-client", "exp": int(time.time()) + 600}
    chosen = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return jwt.encode(chosen, private, algorithm="RS256", headers={"kid": key_id})


@pytest.fixture(scope="module")
def signers() -> Signers:
    return [new_signer("first"), new_signer("second")]


@pytest.fixture(scope="module")
def jwt_edge(
    signers: Signers,
    module_upstream: RecordingUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Edge, Path]]:
    directory = tmp_path_factory.mktemp("jwt")
    jwks = directory / "jwks" / "jwks.json"
    jwks.parent.mkdir()
    jwks.write_text(json.dumps({"keys": [signers[0][1]]}))
    settings = {
        "auth": {
            "mode": "jwt",
            "jwt": {"issuer": ISSUER, "audiences": [AUDIENCE], "client_claim": "sub", "jwks_file": str(jwks)},
        }
    }
    with running_edge(directory, module_upstream.port, settings) as running:
        yield running, jwks


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/models", 401), ("/nothing", 404), (CHAT, 405), ("/healthz", 200)]
)
def test_without_a_token_a_connection_is_not_kept(
    jwt_edge: tuple[Edge, Path], path: str, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", jwt_edge[0].port), timeout=20) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        received = b""
        while data := client.recv(65536):  # Ends when the edge closes the connection.
            received += data
        assert received.split(b" ")[1] == str(status).encode()


def test_with_a_token_a_connection_is_kept(
    jwt_edge: tuple[Edge, Path], signers: Signers, upstream: RecordingUpstream
) -> None:
    with httpx.Client(timeout=20) as client:
        headers = jwt_edge[0].headers(token(signers[0][0], "first"))
        for _ in range(2):
            answer = client.post(jwt_edge[0].url + CHAT, json=GOOD_BODY, headers=headers)
            assert answer.status_code == 200
            assert "connection" not in answer.headers


def test_a_token_names_its_client_and_goes_no_further(
    jwt_edge: tuple[Edge, Path],
    signers: Signers,
    upstream: RecordingUpstream,
) -> None:
    edge, _ = jwt_edge
    good = token(signers[0][0], "first")
    answer = edge.post(key=good, x_client_id="evil")
    assert answer.status_code == 200
    assert upstream.received[0].value("x-client-id") == "jwt-client"
    assert good not in str(upstream.received[0])


@pytest.mark.parametrize(
    ("what", "claims"),
    [
        ("expired", {"exp": 1_600_000_000}),
        ("without an end", {"exp": None}),
        ("of another issuer", {"iss": "https://other.test"}),
        ("for somebody else", {"aud": "other"}),
        ("for nobody", {"aud": None}),
        ("not valid yet", {"nbf": 4_000_000_000}),
        ("without a name", {"sub": None}),
        ("with an unusable name", {"sub": "a b\u00e9"}),
        ("with an empty name", {"sub": ""}),
        ("with an endless name", {"sub": "a" * 200}),
    ],
)
def test_a_bad_token_is_answered_401(
    jwt_edge: tuple[Edge, Path],
    signers: Signers,
    upstream: RecordingUpstream,
    what: str,
    claims: dict[str, Any],
) -> None:
    edge, _ = jwt_edge
    answer = edge.post(key=token(signers[0][0], "first", **claims))
    # Envoy tells a good token for another audience apart: 403.
    expected = (403, "permission_error") if "aud" in claims else (401, "authentication_error")
    assert (answer.status_code, answer.json()["error"]["type"]) == expected, what
    assert answer.status_code == 403 or answer.headers["www-authenticate"].startswith("Bearer")
    assert upstream.count == 0


def claims() -> dict[str, Any]:
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": int(time.time()) + 600}


def forged(signers: Signers) -> dict[str, str]:
    """Return tokens with the right claims that nobody here signed, by what is wrong with them."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    (first, _), (second, second_jwk) = signers
    head, _, signature = token(first, "first").split(".")
    public = first.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    secret = part({"alg": "HS256", "kid": "first"}) + "." + part(claims())
    mac = base64.urlsafe_b64encode(hmac.digest(public, secret.encode(), "sha256")).rstrip(b"=").decode()
    return {
        "unsigned": jwt.encode(claims(), "", algorithm="none"),
        "unsigned, in other letters": part({"alg": "nOnE", "kid": "first"}) + "." + part(claims()) + ".",
        "with other claims under a good signature": f"{head}.{part({**claims(), 'sub': 'root'})}.{signature}",
        "signed by somebody else": token(second, "first"),
        "of an unknown signing key": jwt.encode(claims(), first, algorithm="RS256", headers={"kid": "x"}),
        "that brings its own key": jwt.encode(
            claims(), second, algorithm="RS256", headers={"kid": "second", "jwk": second_jwk}
        ),
        "with the public key as a secret": f"{secret}.{mac}",
        "that is none": "a.b.c",
        "that is an API key": CLIENT_KEY,
        "of 6,000 characters": token(first, "first") + "a" * 5_000,
    }


def test_a_token_nobody_here_signed_is_answered_401(
    jwt_edge: tuple[Edge, Path], signers: Signers, upstream: RecordingUpstream
) -> None:
    edge, _ = jwt_edge
    for what, credential in forged(signers).items():
        assert edge.post(key=credential).status_code == 401, what
    good = b"authorization: Bearer " + token(signers[0][0], "first").encode() + b"\r\n"
    for headers in (good + good, good + b"authorization: Bearer x\r\n", b""):
        request = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n"
        assert exchange(edge.port, request).status == 401, headers[-40:]
    assert upstream.count == 0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_of_the_right_issuer_lets_in_and_other_credentials_go_no_further(
    jwt_edge: tuple[Edge, Path], signers: Signers, upstream: RecordingUpstream, scheme: str
) -> None:
    edge, _ = jwt_edge
    good = token(signers[0][0], "first", aud=["other", AUDIENCE])
    headers = {"authorization": f"{scheme} {good}", "x-api-key": CLIENT_KEY, "cookie": "a=b"}
    assert httpx.get(edge.url + MODELS, headers=headers).status_code == 200
    received = upstream.received[0]
    assert received.value("x-client-id") == "jwt-client"
    assert CLIENT_KEY not in str(received)
    assert received.values("cookie") == []
    assert good not in str(received)


def test_signing_keys_come_from_a_url_and_rotate_there(
    signers: Signers, upstream: RecordingUpstream, tmp_path: Path
) -> None:
    published = [signers[0][1]]

    class Jwks(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = json.dumps({"keys": published}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Jwks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/jwks.json"
    section = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks_url": url, "jwks_cache_seconds": 1}
    try:
        with running_edge(tmp_path, upstream.port, {"auth": {"mode": "jwt", "jwt": section}}) as edge:
            first, second = token(signers[0][0], "first"), token(signers[1][0], "second")
            assert edge.post(key=first).status_code == 200
            assert edge.post(key=second).status_code == 401
            assert upstream.count == 1
            published.append(signers[1][1])
            eventually(lambda: edge.post(key=second).status_code == 200, "the other key is taken")
            assert edge.post(key=first).status_code == 200
    finally:
        server.shutdown()
        server.server_close()
