"""A broken script must refuse requests: Envoy alone would continue without the script."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edge_gateway.launch import envoy_binary
from edge_gateway.render import render
from edge_gateway.settings import Settings
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.edges import CHAT, CLIENT_KEY, GOOD_BODY
from harness.servers.recording_upstream import RecordingUpstream

pytestmark = pytest.mark.service

HEADERS = {"authorization": f"Bearer {CLIENT_KEY}"}


@contextlib.contextmanager
def broken_edge(directory: Path, router_port: int, file: str, whole: str, broken: str) -> Iterator[str]:
    """Run an edge in whose ``file`` one line of a script is replaced; yields its URL."""
    ports = {name: {"port": free_port()} for name in ("listen", "admin", "telemetry")}
    settings = Settings.model_validate({**ports, "router": {"port": router_port}})
    digest = hashlib.sha256(CLIENT_KEY.encode()).hexdigest()
    render(settings, {"tester": [digest]}, directory).write(directory)
    path = directory / file
    text = path.read_text()
    assert whole in text
    path.write_text(text.replace(whole, broken))
    command = [envoy_binary(), "-c", directory / "envoy.yaml", "--use-dynamic-base-id", "-l", "error"]
    url = f"http://127.0.0.1:{settings.listen.port}"
    with running(command, log=directory / "log", ready=answers(f"{url}/healthz"), ready_seconds=60):
        yield url


CHECK = "local function check_json(text, wanted, media_hosts)"
HASH = "local function sha256(text)"


def test_without_a_fault_it_serves(tmp_path: Path, upstream: RecordingUpstream) -> None:
    with broken_edge(tmp_path, upstream.port, "envoy.yaml", CHECK, CHECK) as url:
        assert httpx.post(url + CHAT, json=GOOD_BODY, headers=HEADERS).status_code == 200
    assert upstream.count == 1


def test_a_fault_in_the_body_check_refuses(tmp_path: Path, upstream: RecordingUpstream) -> None:
    with broken_edge(tmp_path, upstream.port, "envoy.yaml", CHECK, f"{CHECK} error('broken')") as url:
        answer = httpx.post(url + CHAT, json=GOOD_BODY, headers=HEADERS)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "edge_error"
    assert upstream.count == 0


def test_a_fault_in_the_key_check_refuses(tmp_path: Path, upstream: RecordingUpstream) -> None:
    with broken_edge(tmp_path, upstream.port, "routes.yaml", HASH, f"{HASH} error('broken')") as url:
        for answer in (
            httpx.post(url + CHAT, json=GOOD_BODY, headers=HEADERS),
            httpx.get(url + "/v1/models", headers=HEADERS),
            httpx.get(url + "/v1/models/a", headers=HEADERS),
        ):
            assert answer.status_code == 401
    assert upstream.count == 0


def test_a_route_table_without_the_key_check_refuses(tmp_path: Path, upstream: RecordingUpstream) -> None:
    with broken_edge(tmp_path, upstream.port, "routes.yaml", "edge.authentication", "edge.forgotten") as url:
        assert httpx.post(url + CHAT, json=GOOD_BODY, headers=HEADERS).status_code in (401, 404)
        assert httpx.get(url + "/v1/models", headers=HEADERS).status_code in (401, 404)
    assert upstream.count == 0
