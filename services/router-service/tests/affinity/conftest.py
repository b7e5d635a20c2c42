"""A real Redis for this folder's tests."""

from collections.abc import Iterator

import pytest
import redis

from harness.ports import free_port
from harness.processes import running


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")

    def ready() -> bool:
        try:
            return bool(redis.Redis(port=port).ping())
        except redis.ConnectionError:
            return False

    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with running(command, log=folder / "redis.log", ready=ready):
        yield f"redis://127.0.0.1:{port}/0"
