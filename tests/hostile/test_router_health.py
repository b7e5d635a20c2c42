"""Attack: requests that end badly at the router, to make the edge take routers for unhealthy."""

import contextlib
import json
import socket
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from harness.attacks.bodies import TINY_ITEMS
from harness.attacks.frames import closed, reset_streams
from harness.clients.http2 import Http2Client
from harness.servers.edges import CHAT, CLIENT_KEY, LOAD_KEY, WIDE, Edge, running_edge
from harness.servers.router_fleet import Fleet, RouterPart, fleet_in
from harness.stacks.attacked import KEYS
from harness.waiting import eventually

pytestmark = pytest.mark.service

ROUNDS = 40
OWN_REQUESTS = 60
EDGE_KEYS = {"tester": [CLIENT_KEY], "load": [LOAD_KEY], "fast": KEYS["fast"]}
SIGNS_OF_A_FLAP = (
    "health_check.failure",
    "health_check.passive_failure",
    "membership_change",
    "outlier_detection.ejections_enforced_total",
    "outlier_detection.ejections_detected_consecutive_local_origin_failure",
    "outlier_detection.ejections_active",
)


def test_no_client_makes_a_router_unhealthy(tmp_path: Path) -> None:
    """Two routers, so that one could be ejected. Changes of health take effect at once."""
    with fleet_in(tmp_path) as fleet:
        for name in ("good", "failing"):
            fleet.add_engine(name, "--served-model-name", name)
        fleet.engines["failing"].fault("http_error", status=503)
        routers = [add_router(fleet) for _ in range(2)]
        settings = {
            "router": {"replicas": [{"host": "127.0.0.1", "port": router.port} for router in routers]},
            "limits": {"default": WIDE},
        }
        with running_edge(tmp_path / "edge", routers[0].port, settings, EDGE_KEYS) as edge:
            before = {name: stat(edge, name) for name in SIGNS_OF_A_FLAP}
            with ThreadPoolExecutor(4) as threads:
                attacks = [
                    threads.submit(left_at_once, edge),
                    threads.submit(errors, edge),
                    threads.submit(tiny_items, edge),
                    threads.submit(reset, edge),
                ]
                own = [edge.post(body("good"), key=CLIENT_KEY).status_code for _ in range(OWN_REQUESTS)]
                results = [attack.result(100) for attack in attacks]
            time.sleep(2.5)  # two health checks
            after = {name: stat(edge, name) for name in SIGNS_OF_A_FLAP}
            left = sum(router.metric("router_requests_total", outcome="cancelled") for router in routers)
            healthy = [edge.is_healthy(router.port) for router in routers]
    print(f"{results}, {left:.0f} requests cancelled at the routers, {Counter(own)}")
    assert left >= ROUNDS / 2, "the attack must have happened: routers lost their clients"
    assert sum(count for status, count in results[1].items() if status >= 500) == ROUNDS, (
        "the attack must have happened: routers failed"
    )
    assert after == before
    assert healthy == [True, True]
    assert own == [200] * OWN_REQUESTS


def add_router(fleet: Fleet) -> RouterPart:
    """Start a router with a pool for each engine, whose model has the engine's name."""
    pools = {
        name: {"models": [name], "backends": {name: {"url": engine.url}}}
        for name, engine in fleet.engines.items()
    }
    router = fleet.add_router(wait_usable=0, pools=pools, routing={"default_pool": "good"})
    eventually(lambda: router.usable("good") == 1, "the good pool is usable")
    return router


def body(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **more}


def stat(edge: Edge, name: str) -> int:
    """Return a counter of the edge's cluster of routers."""
    text = httpx.get(
        f"http://127.0.0.1:{edge.admin_port}/stats?filter=^cluster.router.{name}$", timeout=10
    ).text
    assert text, f"Envoy has no counter {name}"
    return int(text.rpartition(":")[2])


def left_at_once(edge: Edge) -> int:
    """Send requests and reset each connection while the router works on it."""
    raw = json.dumps(body("good", stream=True, max_tokens=400, ignore_eos=True)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {LOAD_KEY}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    for _ in range(ROUNDS):
        with socket.create_connection(("127.0.0.1", edge.port), timeout=20) as client:
            client.sendall(head.encode() + raw)
            client.recv(64)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return ROUNDS


def errors(edge: Edge) -> Counter[int]:
    """Send requests whose engine answers with an error."""
    return Counter(edge.post(body("failing"), key=LOAD_KEY).status_code for _ in range(ROUNDS))


def tiny_items(edge: Edge) -> int:
    """Send bodies of a million items."""
    for path, content in TINY_ITEMS.values():
        edge.post(content, path, LOAD_KEY)
    return len(TINY_ITEMS)


def reset(edge: Edge) -> int:
    """Begin HTTP/2 requests and reset each at once, on three connections."""
    ended = 0
    for _ in range(3):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", edge.port), timeout=8) as client,
        ):
            Http2Client(client)
            ended += closed(client, reset_streams(), 8)
    return ended
