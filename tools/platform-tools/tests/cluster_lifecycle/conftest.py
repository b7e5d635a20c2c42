"""A fake AWS for each test module, and a fresh cluster in it for each test."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer

from harness.kubernetes.fake_api_server import fake_kubernetes
from harness.kubernetes.lifecycle_world import World


@pytest.fixture(scope="module")
def aws_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def world(tmp_path: Path, aws_url: str) -> Iterator[World]:
    with fake_kubernetes() as kubernetes:
        made = World(tmp_path, aws_url, kubernetes)
        httpx.post(f"{aws_url}/moto-api/reset").raise_for_status()
        yield made
