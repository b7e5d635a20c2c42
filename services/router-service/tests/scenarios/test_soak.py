"""Ten minutes of mixed streams, cancellations and dying engines: flat memory, no drift, no clean truncation."""

import collections
import contextlib
import json
import os
import random
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from harness.judges.raw_streams import judged
from harness.servers.router_fleet import MODEL, Engine, Fleet, RouterPart, fleet_in
from harness.waiting import eventually

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
SEED = int(os.environ.get("SEED", "1"))
pytestmark = [pytest.mark.service, pytest.mark.full, pytest.mark.timeout(SECONDS + 600)]

CLIENTS = 8
FAULTS = ("die_mid_stream", "clean_truncation", "error_event", "http_error", "stall_mid_stream")
KILL_EVERY_SECONDS = 20.0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as fleet:
        for name in ("engine-a", "engine-b", "engine-c"):
            fleet.add_engine(name, "--step-seconds", "0.002")
        (tmp_path / "rules.yaml").write_text(
            yaml.safe_dump(
                {
                    "rules": [
                        {
                            "name": "resumed",
                            "when": {"header": {"x-resume": "yes"}},
                            "route_to": "general",
                            "resume": True,
                        }
                    ]
                }
            )
        )
        yield fleet


class Clients:
    """Threads that send good, aborted and malformed requests until ``stop``; ``counts`` has the outcomes."""

    def __init__(self, router: RouterPart, stop: float) -> None:
        self.router = router
        self.stop = stop
        self.counts: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(SEED * 1000 + n,)) for n in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)

    def _run(self, seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < self.stop:
            try:
                ended = self._one(dice)
            except OSError as problem:
                ended = "problem"
                self.problems.append(repr(problem))
            with self._lock:
                self.counts[ended] += 1

    def _one(self, dice: random.Random) -> str:
        stream, tokens = dice.random() < 0.7, dice.choice([1, 10, 40])
        body = {
            "model": MODEL,
            "stream": stream,
            "max_tokens": tokens,
            "ignore_eos": True,
            "messages": [{"role": "user", "content": "x" * dice.choice([10, 500, 4_000])}],
        }
        raw = json.dumps(body).encode()
        if dice.random() < 0.02:
            raw = raw[:-5]
        more = b"x-resume: yes\r\n" if dice.random() < 0.3 else b""
        more += b"x-session-id: s%d\r\n" % dice.randrange(500) if dice.random() < 0.3 else b""
        with socket.create_connection(("127.0.0.1", self.router.port), timeout=60) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nconnection: close\r\n"
                b"%bcontent-length: %d\r\n\r\n%b" % (more, len(raw), raw)
            )
            leaves = dice.random()
            if leaves < 0.03:
                return "left at once"
            data = b""
            while piece := connection.recv(65536):
                data += piece
                if leaves < 0.1:
                    return "left"
        return _judged(data, stream, tokens)


def _judged(data: bytes, stream: bool, tokens: int) -> str:
    """Classify a response for its client: whole, refused, visibly broken, or a truncation that looks whole."""
    if not data.startswith(b"HTTP/1.1 200 "):
        return f"status {data[9:12].decode()}"
    head, body = data.split(b"\r\n\r\n", 1)
    if stream:
        return judged(body, tokens)
    length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    if len(body) != length:
        return "broken"
    counted = json.loads(body)["usage"]["completion_tokens"]
    return "whole" if counted == tokens else f"wrong: {counted} of {tokens} tokens"


def resident_kb(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def slope_kb_per_minute(samples: list[tuple[float, int]]) -> float:
    """Least squares through (seconds, kB)."""
    times, sizes = [at for at, _ in samples], [size for _, size in samples]
    return statistics.linear_regression(times, sizes).slope * 60


@dataclass
class Disturbed:
    """The engines' faults, and the router's memory during the run as (seconds, kB)."""

    memory: list[tuple[float, int]] = field(default_factory=list)
    killed: int = 0
    hits: collections.Counter[str] = field(default_factory=collections.Counter)

    def count_hits(self, engine: Engine) -> None:
        """Add the faults that ``engine`` met since it started."""
        for kind in FAULTS:
            self.hits[kind] += engine.hits(kind)


def disturb(fleet: Fleet, router: RouterPart, began: float, stop: float) -> Disturbed:
    """Inject random faults into random engines until ``stop``, and sometimes kill an engine."""
    done = Disturbed()
    dice = random.Random(SEED)
    last_kill = began
    while time.monotonic() < stop:
        engine = fleet.engines[dice.choice(list(fleet.engines))]
        with contextlib.suppress(Exception):
            engine.fault(dice.choice(FAULTS), after_chunks=dice.randrange(20), seconds=2, count=3)
        time.sleep(0.5)
        done.memory.append((time.monotonic() - began, resident_kb(router.pid)))
        if time.monotonic() - last_kill > KILL_EVERY_SECONDS:
            done.count_hits(engine)
            engine.kill()
            done.killed += 1
            time.sleep(dice.random() * 2)
            engine.start()
            last_kill = time.monotonic()
    return done


def test_memory_stays_flat_counters_do_not_drift_and_no_truncation_looks_whole(fleet: Fleet) -> None:
    router = fleet.add_router(
        routing={"default_pool": "general", "rules_file": "rules.yaml"},
        limits={"max_in_flight_per_backend": 4, "queue_size": 4, "queue_seconds": 1},
        decisions={"ring": 500},
    )
    router.post()
    before = descriptors(router.pid)
    began = time.monotonic()
    clients = Clients(router, began + SECONDS)
    clients.start()
    disturbed = disturb(fleet, router, began, clients.stop)
    clients.join()
    for engine in fleet.engines.values():
        disturbed.count_hits(engine)
        engine.heal()
    memory, killed, hits = disturbed.memory, disturbed.killed, disturbed.hits
    counts = clients.counts
    sent = sum(counts.values()) + 1
    third = len(memory) // 3
    middle = statistics.median(size for _, size in memory[third : 2 * third])
    last = statistics.median(size for _, size in memory[-third:])
    eventually(lambda: router.metric("router_in_flight") == 0, "in flight is exactly 0", 20)
    counted = router.metric("router_requests_total")
    print(
        f"\nsoak of {SECONDS:.0f} s, seed {SEED}: {sent} requests, {sent / SECONDS:.0f}/s\n"
        f"ends seen by clients: {dict(sorted(counts.items()))}\n"
        f"engines killed: {killed}; faults met: {dict(hits)}; "
        f"resumed: {router.metric('router_stream_resumes_total', result='ok'):.0f}\n"
        f"memory kB: first {memory[0][1]}, middle third {middle:.0f}, last third {last:.0f}, "
        f"slope over the last two thirds {slope_kb_per_minute(memory[third:]):+.1f} kB/minute\n"
        f"requests counted by the router: {counted:.0f}; descriptors {before} before, {descriptors(router.pid)} after"
    )
    assert clients.problems == []
    assert [end for end in counts if end.startswith("wrong")] == [], "no truncation looks whole"
    assert counts["whole"] > 0
    assert counts["broken"] > 0, "streams did break"
    assert killed >= SECONDS // (2 * KILL_EVERY_SECONDS)
    assert sum(hits.values()) > 0
    assert router.metric("router_queue_length") == 0
    assert router.metric("router_retry_budget_remaining") == 3
    # A connection that is closed at once may be gone before its request was read.
    assert sent - counts["left at once"] <= counted <= sent
    eventually(lambda: descriptors(router.pid) <= before + 5, "descriptors are back", 30)
    eventually(lambda: router.post().status_code == 200, "it serves on", 10)
    assert last <= middle * 1.03 + 1024, "memory is flat"
