"""One edge with the usual settings and one recording upstream for each test file that needs them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.servers.edges import Edge, running_edge
from harness.servers.recording_upstream import Manner, RecordingUpstream, recording_upstream


@pytest.fixture(scope="module")
def module_upstream() -> Iterator[RecordingUpstream]:
    with recording_upstream() as running:
        yield running


@pytest.fixture
def upstream(module_upstream: RecordingUpstream) -> RecordingUpstream:
    """The file's upstream with its usual manner and nothing received yet."""
    module_upstream.manner = Manner()
    module_upstream.manner_of = None
    module_upstream.received.clear()
    return module_upstream


@pytest.fixture(scope="module")
def edge(module_upstream: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """The file's edge: small limits where a limit must be reached, everything else as shipped."""
    directory: Path = tmp_path_factory.mktemp("edge")
    settings = {
        "bounds": {"max_body_bytes": 1_000_000},
        "timeouts": {"request_headers_seconds": 2, "request_body_seconds": 4, "http2_idle_seconds": 2},
    }
    with running_edge(directory, module_upstream.port, settings) as running:
        yield running
