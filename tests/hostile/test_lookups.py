"""Attack: one client asks for unknown request ids, each of which every router replica is queried for."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from harness.ports import free_port
from harness.servers.edges import CLIENT_KEY, LOAD_KEY, Edge, running_edge
from harness.servers.router_fleet import fleet_in
from harness.stacks.attacked import Attacked

pytestmark = pytest.mark.service

ATTACKERS = 48
OWN_LOOKUPS = 30


def test_unknown_ids_of_one_client_do_not_hide_anothers_request(tmp_path: Path) -> None:
    """A replica hangs, so each unknown id occupies a lookup for its whole time limit."""
    with fleet_in(tmp_path) as fleet:
        fleet.add_engine("one")
        ports = [free_port() for _ in range(3)]
        peers = {"urls": [f"http://127.0.0.1:{port}" for port in ports]}
        asked, other, hanging = [fleet.add_router(port=port, peers=peers) for port in ports]
        own = other.post(headers={"x-client-id": "tester"}).headers["x-request-id"]
        with running_edge(tmp_path / "edge", asked.port) as edge:
            hanging.freeze()
            over = threading.Event()
            try:
                with ThreadPoolExecutor(ATTACKERS) as threads:
                    floods = [threads.submit(flood, edge, over, f"none-{n}") for n in range(ATTACKERS)]
                    time.sleep(1.0)
                    found = []
                    for _ in range(OWN_LOOKUPS):
                        answer = httpx.get(f"{edge.url}/v1/requests/{own}", headers=edge.headers(CLIENT_KEY))
                        found.append(answer.status_code)
                        time.sleep(0.1)
                    over.set()
                    asked_for = sum((one.result(30) for one in floods), Counter[int]())
            finally:
                over.set()
                hanging.thaw()
    print(f"attacker: {dict(asked_for)}; the other client: {dict(Counter(found))}")
    assert asked_for[404] >= ATTACKERS, "the attack must have happened"
    assert found == [200] * OWN_LOOKUPS


def flood(edge: Edge, over: threading.Event, name: str) -> Counter[int]:
    """Ask for unknown ids until ``over``; return the statuses. Pauses keep the attackers out of step."""
    statuses: Counter[int] = Counter()
    pauses = random.Random(name)
    with httpx.Client(headers=edge.headers(LOAD_KEY), timeout=30) as client:
        number = 0
        while not over.is_set():
            statuses[client.get(f"{edge.url}/v1/requests/{name}-{number}").status_code] += 1
            number += 1
            over.wait(pauses.random() / 2)
    return statuses


def test_lookups_count_in_the_rate_of_their_client(attacked: Attacked) -> None:
    """The client may send 20 requests a second and 40 at once, to all paths together."""
    began = time.monotonic()
    with httpx.Client(headers=attacked.headers("attacker"), timeout=30) as client:
        paths = ("/v1/requests/none", "/v1/responses/none", "/v1/models")
        statuses = Counter(client.get(attacked.edge.url + paths[n % 3]).status_code for n in range(200))
    print(f"{dict(statuses)} in {time.monotonic() - began:.1f} s")
    assert statuses[404] + statuses[200] <= 40 + 20 * (time.monotonic() - began + 1)
    assert statuses[429] >= 40, "more were sent than the rate allows"
