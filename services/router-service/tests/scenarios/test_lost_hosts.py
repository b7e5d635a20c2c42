"""A host that vanishes without closing anything: an engine's, and a client's. Real network namespaces, as root."""

import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from harness.dead_link import FarHost, far_host
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.recording_upstream import Manner, RecordingUpstream, recording_upstream
from harness.waiting import eventually

from .conftest import BIN, MODEL, config

pytestmark = [
    pytest.mark.service,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

LONGEST_HANG_SECONDS = 20.0


@contextmanager
def router(folder: Path, near: RecordingUpstream, far: RecordingUpstream, host: str) -> Iterator[str]:
    """A router whose agents cannot detect a lost host: only its own connections can."""
    port = free_port()
    settings = config(port, {}, server={"host": host})
    agent = f"http://127.0.0.1:{near.port}/readyz"
    settings["pools"]["general"]["backends"] = {
        "near": {"url": f"http://127.0.0.1:{near.port}", "health_url": agent},
        "far": {"url": f"http://{far.host}:{far.port}", "health_url": agent},
    }
    settings["timeouts"] = {
        "connect_seconds": 1, "first_token_seconds": 300, "idle_seconds": 300, "total_seconds": 600,
    }  # fmt: skip
    (folder / "router.yaml").write_text(yaml.safe_dump(settings))
    url = f"http://127.0.0.1:{port}"
    with running(
        [BIN / "router-service", "serve", "--config", folder / "router.yaml"],
        log=folder / "router.jsonl",
        ready=answers(f"{url}/readyz"),
    ):
        yield url


def ask(url: str, stream: bool) -> tuple[int, bytes, bool, float]:
    """Return status, body, whether it was cut, and seconds."""
    body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "x"}]}
    began = time.monotonic()
    data, cut, status = b"", False, 0
    with httpx.Client(timeout=120) as client:
        try:
            with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                status = answer.status_code
                for piece in answer.iter_raw():
                    data += piece
        except httpx.RemoteProtocolError:
            cut = True
    return status, data, cut, time.monotonic() - began


def cut(host: FarHost) -> None:
    host.cut()
    eventually(lambda: not host.carries(), "the link is down")


@pytest.mark.parametrize("stream", [False, True])
def test_requests_awaited_from_a_vanished_engine_are_answered_by_another(
    tmp_path: Path, stream: bool
) -> None:
    with (
        far_host() as host,
        recording_upstream() as near,
        recording_upstream(host=host.address, namespace=host.namespace) as far,
    ):
        far.manner = Manner(delay_seconds=300)
        near.manner = Manner(delay_seconds=1)
        with router(tmp_path, near, far, "127.0.0.1") as url, ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(ask, url, stream) for _ in range(6)]
            eventually(lambda: far.count + near.count == 6, "every request is at an engine")
            assert far.count, "the far engine must have a request when it vanishes"
            cut(host)
            found = [each.result() for each in asked]
    assert {(status, broken) for status, _, broken, _ in found} == {(200, False)}
    assert max(seconds for *_, seconds in found) < LONGEST_HANG_SECONDS


def test_a_stream_of_a_vanished_engine_ends_with_an_error_event(tmp_path: Path) -> None:
    with (
        far_host() as host,
        recording_upstream() as near,
        recording_upstream(host=host.address, namespace=host.namespace) as far,
    ):
        for each in (near, far):
            each.manner = Manner(chunks=40, chunk_seconds=0.5)
        with router(tmp_path, near, far, "127.0.0.1") as url, ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, url, True) for _ in range(4)]
            eventually(lambda: far.count + near.count == 4, "every request is at an engine")
            ours, theirs = near.count, far.count
            assert theirs, "the far engine must have a stream when it vanishes"
            time.sleep(1.5)
            cut(host)
            found = [each.result() for each in asked]
    whole = [data for _, data, broken, _ in found if not broken]
    ended = [(data, seconds) for _, data, broken, seconds in found if broken]
    assert (len(whole), len(ended)) == (ours, theirs)
    assert all(data.endswith(b"data: [DONE]\n\n") for data in whole), "streams that produce are not touched"
    for data, seconds in ended:
        last = [event for event in data.split(b"\n\n") if event][-1]
        assert "error" in json.loads(last.removeprefix(b"data: "))
        assert seconds < LONGEST_HANG_SECONDS


ASKING = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
body = sys.argv[3].encode()
head = "POST /v1/chat/completions HTTP/1.1\\r\\nhost: r\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body)
connection.sendall(head.encode() + body)
connection.settimeout(None)
while connection.recv(65536):
    pass
"""


@pytest.mark.parametrize("stream", [False, True])
def test_a_vanished_client_does_not_hold_its_engine(tmp_path: Path, stream: bool) -> None:
    body = json.dumps({"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "x"}]})
    with far_host() as host, recording_upstream() as near, recording_upstream() as other:
        for each in (near, other):
            each.manner = Manner(delay_seconds=0 if stream else 300, chunks=3000, chunk_seconds=0.1)
        with router(tmp_path, near, other, "0.0.0.0") as url:
            gateway, port = host.address.rsplit(".", 1)[0] + ".1", url.rsplit(":", 1)[1]
            client = [
                "ip",
                "netns",
                "exec",
                host.namespace,
                sys.executable,
                "-c",
                ASKING,
                gateway,
                port,
                body,
            ]
            with running(client, log=tmp_path / "client.log", ready=lambda: _in_flight(url) == 1):
                cut(host)
                began = time.monotonic()
                eventually(lambda: _in_flight(url) == 0, "the request was given up", seconds=60)
                assert time.monotonic() - began < LONGEST_HANG_SECONDS


def _in_flight(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("router_in_flight{"))
