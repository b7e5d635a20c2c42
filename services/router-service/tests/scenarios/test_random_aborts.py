"""Five hundred requests that are aborted, broken, malformed or moved: every counter is exactly 0 afterwards."""

import collections
import concurrent.futures
import contextlib
import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.judges.raw_streams import judged
from harness.servers.router_fleet import MODEL, Fleet, RouterPart, fleet_in
from harness.waiting import eventually

pytestmark = pytest.mark.service

SEED = int(os.environ.get("SEED") or random.randrange(1_000_000))
REQUESTS = 500
CLIENTS = 16
TOKENS = 40
PATIENT = {"connect_seconds": 5, "first_token_seconds": 60, "idle_seconds": 60, "total_seconds": 120}
BROKEN = ("die_mid_stream", "clean_truncation")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as fleet:
        for name in ("engine-a", "engine-b", "engine-c"):
            fleet.add_engine(name, "--step-seconds", "0.01")
        yield fleet


def request(stream: bool, tokens: int, spoil: bool = False) -> bytes:
    asked: dict[str, Any] = {"model": MODEL, "stream": stream, "max_tokens": tokens, "ignore_eos": True}
    body = json.dumps({**asked, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    if spoil:
        body = body[:-5]
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


class Clients:
    """Threads that ask until ``REQUESTS`` are sent and :meth:`finish` was called; ``ends`` says how each ended."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._finished = threading.Event()
        self._lock = threading.Lock()
        self._sent = 0
        self.ends: collections.Counter[str] = collections.Counter()

    @property
    def sent(self) -> int:
        return self._sent

    def finish(self) -> None:
        self._finished.set()

    def run(self, seed: int) -> None:
        dice = random.Random(seed)
        while self._sent < REQUESTS or not self._finished.is_set():
            with self._lock:
                self._sent += 1
            end = self._one(dice)
            with self._lock:
                self.ends[end] += 1

    def _one(self, dice: random.Random) -> str:
        spoil, stream = dice.random() < 0.1, dice.random() < 0.8
        leaves_after = dice.randrange(TOKENS) if dice.random() < 0.6 else None
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
            connection.sendall(request(stream, TOKENS, spoil))
            data = b""
            while leaves_after is None or data.count(b"data: ") < leaves_after:
                piece = connection.recv(65536)
                if not piece:
                    return _judged(data, stream)
                data += piece
        return "left"


def _judged(data: bytes, stream: bool) -> str:
    if not data.startswith(b"HTTP/1.1 200 "):
        return f"status {data[9:12].decode()}"
    return judged(data.split(b"\r\n\r\n", 1)[1], TOKENS) if stream else "whole"


class Watch:
    """Reads every counter that must never be below 0, as often as possible; ``lowest`` has the minimum of each."""

    NAMES = ("router_in_flight", "router_queue_length", "router_retry_budget_remaining")

    def __init__(self, router: RouterPart) -> None:
        self._router = router
        self._stop = threading.Event()
        self.looks = 0
        self.most = 0.0
        self.lowest: dict[str, float] = {}

    def run(self) -> None:
        while not self._stop.wait(0.02):
            for line in self._router.exposition().splitlines():
                head, _, value = line.rpartition(" ")
                if head.split("{")[0] in self.NAMES:
                    self.lowest[head] = min(float(value), self.lowest.get(head, 0.0))
                    self.most = max(self.most, float(value))
            self.looks += 1

    def stop(self) -> None:
        self._stop.set()


@contextlib.contextmanager
def asking(router: RouterPart) -> Iterator[tuple[Clients, Watch]]:
    """Run clients and watch the counters until the block ends."""
    clients, watch = Clients(router.port), Watch(router)
    with concurrent.futures.ThreadPoolExecutor(CLIENTS + 1) as threads:
        watching = threads.submit(watch.run)
        running = [threads.submit(clients.run, SEED * 1000 + number) for number in range(CLIENTS)]
        try:
            yield clients, watch
        finally:
            clients.finish()
            concurrent.futures.wait(running)
            watch.stop()
    for done in (watching, *running):
        done.result()


def held_stream_on(router: RouterPart, backend: str) -> socket.socket:
    """A stream of 20 s that started at ``backend``."""
    for _ in range(60):
        connection = socket.create_connection(("127.0.0.1", router.port), timeout=60)
        connection.sendall(request(True, 2000))
        if b"x-route-backend: %b\r\n" % backend.encode() in connection.recv(65536):
            return connection
        connection.close()
    raise AssertionError(f"none of 60 requests went to {backend}")


def flap(fleet: Fleet, router: RouterPart, name: str) -> None:
    """Remove a working backend from the configuration, and add it again while its streams still run."""
    engine = fleet.engines[name]
    with held_stream_on(router, name):
        del fleet.engines[name]
        fleet.rewrite(router, timeouts=PATIENT)
        gauge = f'router_in_flight{{backend="{name}"}}'
        eventually(lambda: gauge not in router.exposition(), "it is gone")
        assert engine.under_way() >= 1, "its streams go on"
        fleet.engines[name] = engine
        fleet.rewrite(router, timeouts=PATIENT)
        eventually(
            lambda: (
                gauge in router.exposition() and router.metric("router_backend_rejected", backend=name) == 0
            ),
            "it is back",
        )
        assert engine.under_way() >= 1, "a stream from before goes on"
    eventually(lambda: router.metric("router_in_flight", backend=name) >= 1, "it is sent requests again")


def test_random_aborts_bad_bodies_dying_engines_and_a_flap_leave_every_counter_at_zero(fleet: Fleet) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    router = fleet.add_router(timeouts=PATIENT)
    with asking(router) as (clients, watch):
        eventually(lambda: clients.sent > 50, "requests flow")
        for kind in BROKEN:
            fleet.engines["engine-a"].fault(kind, after_chunks=dice.randrange(1, TOKENS), ratio=0.3)
        flap(fleet, router, "engine-c")
        eventually(lambda: fleet.engines["engine-b"].under_way() > 0, "it works")
        fleet.engines["engine-b"].kill()
        time.sleep(dice.random())
        fleet.engines["engine-b"].start()
    hits = {kind: fleet.engines["engine-a"].hits(kind) for kind in BROKEN}
    print(
        f"{clients.sent} requests: {dict(clients.ends)}; broken by an engine {hits}; {watch.looks} looks, {watch.lowest}"
    )
    assert clients.sent >= REQUESTS
    assert min(hits.values()) > 0, f"the engine did break answers, either way: {hits}"
    assert {"left", "whole", "broken", "status 400"} <= clients.ends.keys()
    assert [end for end in clients.ends if end.startswith("wrong")] == [], "no truncation looks whole"
    for engine in fleet.engines.values():
        engine.heal()
    nothing_is_left(fleet, router)
    assert watch.looks > 10
    assert watch.most > 1, "the watch saw work"
    assert set(watch.lowest.values()) == {0.0}, "no counter was ever negative"


def nothing_is_left(fleet: Fleet, router: RouterPart) -> None:
    """Every counter is exactly 0, the engines are idle, and requests are answered."""
    for name, engine in fleet.engines.items():
        eventually(
            lambda name=name: router.metric("router_in_flight", backend=name) == 0,
            f"{name} has none in flight",
        )
        eventually(lambda engine=engine: engine.under_way() == 0, f"{name} is idle")
    eventually(lambda: router.usable() == len(fleet.engines), "all are usable")
    assert [router.post().status_code for _ in range(20)] == [200] * 20
    assert router.metric("router_in_flight") == 0
    assert router.metric("router_queue_length") == 0
    assert router.metric("router_retry_budget_remaining") == 3
    assert '"traceback"' not in router.log.read_text()
