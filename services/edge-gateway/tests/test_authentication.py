"""API keys: admission, rotation, and an edge that does not start without keys."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import yaml

from edge_gateway.main import main
from harness.clients.raw_http import exchange
from harness.servers.edges import CLIENT_KEY, Edge, running_edge, write_keys
from harness.servers.recording_upstream import RecordingUpstream
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed]

MODELS = "/v1/models"
DIGEST = hashlib.sha256(CLIENT_KEY.encode()).hexdigest().encode()
BEARER = f"Bearer {CLIENT_KEY}".encode()

# What is sent as headers, and whether it is let in.
REFUSED_HEADERS: list[tuple[str, bytes]] = [
    ("no key", b""),
    ("an empty header", b"authorization: \r\n"),
    ("only the scheme", b"authorization: Bearer\r\n"),
    ("an empty key", b"authorization: Bearer \r\n"),
    ("an unknown key", b"authorization: Bearer sk-unknown-0123456789abcdef\r\n"),
    ("the wrong scheme", b"authorization: Basic " + CLIENT_KEY.encode() + b"\r\n"),
    ("no scheme", b"authorization: " + CLIENT_KEY.encode() + b"\r\n"),
    ("a key and more", b"authorization: " + BEARER + b"x\r\n"),
    ("a key cut short", b"authorization: " + BEARER[:-1] + b"\r\n"),
    ("a key in other letters", b"authorization: Bearer " + CLIENT_KEY.upper().encode() + b"\r\n"),
    ("two headers", b"authorization: " + BEARER + b"\r\nauthorization: " + BEARER + b"\r\n"),
    ("two different headers", b"authorization: " + BEARER + b"\r\nauthorization: Bearer other\r\n"),
    ("two keys in one header", b"authorization: " + BEARER + b", " + BEARER + b"\r\n"),
    ("a key in each of two headers", b"authorization: " + BEARER + b"\r\nx-api-key: other\r\n"),
    ("letters beyond ASCII", b"authorization: Bearer s\xc3\xa9cret-0123456789\r\n"),
    ("bytes that are no text", b"authorization: Bearer \xff\xfe\r\n"),
    (
        "a digest instead of the key",
        b"authorization: Bearer " + DIGEST + b"\r\n",
    ),
    ("a very long key", b"authorization: Bearer " + b"a" * 5000 + b"\r\n"),
    ("a client's name", b"x-client-id: tester\r\n"),
    ("a key in a cookie", b"cookie: authorization=" + CLIENT_KEY.encode() + b"\r\n"),
]


@pytest.mark.parametrize(("what", "headers"), REFUSED_HEADERS, ids=[case[0] for case in REFUSED_HEADERS])
def test_it_is_answered_401_and_never_reaches_the_router(
    edge: Edge, upstream: RecordingUpstream, what: str, headers: bytes
) -> None:
    answer = exchange(edge.port, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")
    assert answer.status == 401, what
    assert answer.error["code"] in {"invalid_api_key", "two_credentials"}
    assert answer.error["type"] == "authentication_error"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert upstream.count == 0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_lets_in_and_goes_no_further(edge: Edge, upstream: RecordingUpstream, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {CLIENT_KEY}", "cookie": "a=b"}
    assert httpx.get(edge.url + MODELS, headers=headers).status_code == 200
    received = upstream.received[0]
    assert received.value("x-client-id") == "tester"
    for name in ("authorization", "x-api-key", "cookie", "proxy-authorization"):
        assert received.values(name) == []
    assert CLIENT_KEY not in str(received)


def test_the_header_of_anthropic_clients_is_a_key_too(edge: Edge, upstream: RecordingUpstream) -> None:
    assert httpx.get(edge.url + MODELS, headers={"x-api-key": CLIENT_KEY}).status_code == 200
    assert upstream.received[0].values("x-api-key") == []


@pytest.mark.parametrize("path", ["/healthz", "/healthz?from=lb", "//healthz"])
def test_health_needs_no_key(edge: Edge, upstream: RecordingUpstream, path: str) -> None:
    assert httpx.get(edge.url + path).status_code == 200
    assert upstream.count == 0


def test_no_file_of_the_edge_holds_a_key(edge: Edge) -> None:
    for file in edge.run_dir.iterdir():
        assert CLIENT_KEY not in file.read_text()
    dump = httpx.get(f"http://127.0.0.1:{edge.admin_port}/config_dump?include_eds").text
    assert CLIENT_KEY not in dump


def test_keys_rotate_without_a_restart_and_without_a_failed_request(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    new_key = "sk-rotated-0123456789abcdef0123456789"
    with running_edge(tmp_path, upstream.port) as edge:
        failures: list[int] = []
        asked = 0
        stop, change, changed = threading.Event(), threading.Event(), threading.Event()

        def ask() -> None:
            """Use the old key until the new key is accepted, then only the new key, over one connection."""
            nonlocal asked
            with httpx.Client(timeout=10) as client:
                while not stop.is_set():
                    trying = change.is_set() and not changed.is_set()
                    key = new_key if change.is_set() else CLIENT_KEY
                    status = client.get(edge.url + MODELS, headers=edge.headers(key)).status_code
                    asked += 1
                    if status == 200 and trying:
                        changed.set()
                    elif status != 200 and not trying:
                        failures.append(status)

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: asked > 10, "requests are under way")
        rotate(edge, {"tester": [CLIENT_KEY, new_key]})
        eventually(lambda: status_of(edge, new_key) == 200, "the new key is taken")
        change.set()
        assert changed.wait(15), "every worker of the edge knows the new key by now"
        rotate(edge, {"tester": [new_key]})
        eventually(lambda: status_of(edge, CLIENT_KEY) == 401, "the old key is refused")
        before = asked
        eventually(lambda: asked > before + 10, "requests go on")
        stop.set()
        asking.join()
        assert asked > 10
        assert failures == []
        assert status_of(edge, new_key) == 200


def rotate(edge: Edge, clients: dict[str, list[str]]) -> None:
    write_keys(edge.keys_file, clients)
    command = ["routes", "--settings", str(edge.settings_file), "--keys-file", str(edge.keys_file)]
    assert main([*command, "--out", str(edge.run_dir / "routes.yaml")]) == 0


def status_of(edge: Edge, key: str) -> int:
    return httpx.get(edge.url + MODELS, headers=edge.headers(key), timeout=10).status_code


# An edge that would be open does not start.


def start(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "EDGE_PORT": "", "ROUTER_PORT": ""}
    command = [sys.executable, "-m", "edge_gateway.main", "start", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("clients: {}\n", "without credentials"),
        ("", "without credentials"),
        ("clients: {a: []}\n", "at least one key"),
        ("clients: {a: [short]}\n", "16-256 characters"),
        ("clients: {'a b': [sk-0123456789abcdef]}\n", "a name is"),
        ("clients: {a: [sk-0123456789abcdef], b: [sk-0123456789abcdef]}\n", "already belongs to a"),
        ("clients: {a: [sk-0123456789abcdef]}\nkeys: 1\n", "unknown key 'keys'"),
    ],
)
def test_it_refuses_to_start_on_an_unusable_keys_file(tmp_path: Path, content: str, said: str) -> None:
    settings, keys = tmp_path / "settings.yaml", tmp_path / "keys.yaml"
    settings.write_text("{}\n")
    keys.write_text(content)
    keys.chmod(0o600)
    result = start(
        ["--settings", str(settings), "--keys-file", str(keys), "--run-dir", str(tmp_path / "run")]
    )
    assert result.returncode == 2
    assert said in result.stderr
    assert "sk-0123456789abcdef" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_it_refuses_a_keys_file_that_others_may_read(tmp_path: Path) -> None:
    settings, keys = tmp_path / "settings.yaml", tmp_path / "keys.yaml"
    settings.write_text("{}\n")
    write_keys(keys, {"a": ["sk-0123456789abcdef"]})
    keys.chmod(0o644)
    result = start(
        ["--settings", str(settings), "--keys-file", str(keys), "--run-dir", str(tmp_path / "run")]
    )
    assert result.returncode == 2
    assert "0600" in result.stderr


def test_it_refuses_to_start_without_a_keys_file(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("{}\n")
    result = start(["--settings", str(settings), "--run-dir", str(tmp_path / "run")])
    assert result.returncode == 2
    assert "does not start" in result.stderr


def test_it_says_what_a_start_needs() -> None:
    result = start([])
    assert result.returncode == 2
    assert "start needs --settings" in result.stderr


def test_it_refuses_rendered_files_without_a_credential(tmp_path: Path) -> None:
    settings, keys, out = tmp_path / "settings.yaml", tmp_path / "keys.yaml", tmp_path / "out"
    settings.write_text("{}\n")
    write_keys(keys, {"a": ["sk-0123456789abcdef"]})
    assert main(["render", "--settings", str(settings), "--keys-file", str(keys), "--out", str(out)]) == 0
    routes = out / "routes.yaml"
    document = yaml.safe_load(routes.read_text())
    host = document["resources"][0]["virtual_hosts"][0]
    script = host["typed_per_filter_config"]["edge.authentication"]["source_code"]
    digest = hashlib.sha256(b"sk-0123456789abcdef").hexdigest()
    assert digest in script["inline_string"]
    script["inline_string"] = script["inline_string"].replace(f'  ["{digest}"] = "a",\n', "")
    routes.write_text(yaml.safe_dump(document))
    result = start(["--rendered", str(out)])
    assert result.returncode == 2
    assert "no credential" in result.stderr


def test_a_digest_in_the_keys_file_works_like_its_key(tmp_path: Path, upstream: RecordingUpstream) -> None:
    digest = "sha256:" + hashlib.sha256(CLIENT_KEY.encode()).hexdigest()
    with running_edge(tmp_path, upstream.port, keys={"hashed": [digest]}) as edge:
        assert status_of(edge, CLIENT_KEY) == 200
        assert upstream.received[-1].value("x-client-id") == "hashed"
