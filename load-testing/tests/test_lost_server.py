"""A server whose host vanishes without closing anything. Real network namespaces, as root."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.dead_link import far_host
from harness.servers.recording_upstream import Manner, recording_upstream
from harness.waiting import eventually
from load_testing.measure.outcome import Outcome, RequestRecord
from load_testing.users.client import LOST_SECONDS, Client

pytestmark = [
    pytest.mark.service,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def test_a_request_to_a_vanished_host_ends_as_a_lost_connection() -> None:
    """The server would respond after 300 s; the client must detect the loss long before."""
    record = RequestRecord(0.0, 0.0, "kind", "model", False)
    with (
        far_host() as host,
        recording_upstream(host=host.address, namespace=host.namespace) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        server.manner = Manner(delay_seconds=300)
        client = Client(f"http://{server.host}:{server.port}/v1", "key")
        answer = pool.submit(client.send, record, {}, None, {}, time.perf_counter())
        eventually(lambda: bool(server.received), "the server has the request")
        host.cut()
        eventually(lambda: not host.carries(), "the link is down")
        assert answer.result(timeout=60) == ""
    assert record.outcome is Outcome.CONNECTION, record.detail
    assert LOST_SECONDS / 2 < record.total_seconds < 60, record.detail
