"""Attack: requests that each write entries into the store of sessions and stored responses."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis
import yaml

from harness.servers.edges import WIDE, running_edge
from harness.servers.router_fleet import MODEL, fleet_in
from harness.stacks.attacked import FULL, MIB
from harness.stacks.local import ROOT
from harness.waiting import eventually

pytestmark = pytest.mark.service

REQUESTS = 4_000 if FULL else 400
TTL_SECONDS = 1800
"""The default `affinity.ttl_seconds`."""
ENTRIES_OF_A_REQUEST = 2
"""The pin of its session, and the backend of its response."""
ENTRY_BYTES = 320
STORE_BYTES = 256 * MIB
"""`maxMemory` of the chart llm-redis."""
BODY = {"model": MODEL, "input": "hi", "max_output_tokens": 1}


def test_entries_of_one_client_are_few_and_small_and_expire(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        fleet.add_redis()
        fleet.add_engine("one", "--store-responses")
        router = fleet.add_router()
        with running_edge(tmp_path / "edge", router.port, {"limits": {"default": WIDE}}) as edge:
            assert fleet.redis is not None
            store = redis.Redis(port=fleet.redis.port)
            with ThreadPoolExecutor(4) as threads, httpx.Client(headers=edge.headers(), timeout=60) as client:

                def send(number: int) -> int:
                    session = {"x-session-id": f"session-{number}"}
                    return client.post(f"{edge.url}/v1/responses", json=BODY, headers=session).status_code

                assert Counter(threads.map(send, range(REQUESTS))) == {200: REQUESTS}
            # While the store is slower than its time limit, entries are not written.
            eventually(lambda: store.dbsize() > REQUESTS / 4, lambda: f"only {store.dbsize()} are written")
            names = list(store.scan_iter("llm:session:*", count=1000))
            assert len(names) <= ENTRIES_OF_A_REQUEST * REQUESTS + 1, (
                "one more than tests whether the store works"
            )
            assert all(0 < store.ttl(name) <= TTL_SECONDS for name in names[:100])
            measured = bytes_of_an_entry(store, names)
    print(f"{len(names)} entries of {REQUESTS} requests, {measured:.0f} bytes each")
    assert measured <= ENTRY_BYTES
    assert entries_with_shipped_limits() * ENTRY_BYTES < STORE_BYTES / 8, "several such clients fit"


def bytes_of_an_entry(store: "redis.Redis[bytes]", names: list[bytes]) -> float:
    """Measure Redis' memory for 20,000 entries as long as the longest of ``names``."""
    longest = max(names, key=len).decode()
    value = max((store.get(name) or b"" for name in names), key=len)
    before = store.info("memory")["used_memory"]
    with store.pipeline(transaction=False) as writing:
        for number in range(20_000):
            writing.set(f"{number:0{len(longest)}}", value, ex=TTL_SECONDS)
        writing.execute()
    time.sleep(0.2)
    return float(store.info("memory")["used_memory"] - before) / 20_000


def entries_with_shipped_limits() -> int:
    """Return how many entries a client without limits of its own can have at once."""
    limits = yaml.safe_load((ROOT / "services/edge-gateway/envoy/cluster.yaml").read_text())["limits"][
        "default"
    ]
    requests = limits["burst"] + limits["requests_per_second"] * TTL_SECONDS
    return int(ENTRIES_OF_A_REQUEST * requests)
