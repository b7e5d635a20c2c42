"""All attacks in turn for ten minutes under a normal load, while a second client is measured."""

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from harness.attacks.bodies import (
    BODY_BYTES,
    CANARY,
    TINY_ITEMS,
    is_refused,
    long_texts,
    push,
    slow_post,
    slow_streams,
)
from harness.attacks.connections import OPENINGS
from harness.attacks.frames import FLOODS, closed
from harness.attacks.streams import BODIES, flood, left_early
from harness.clients.http2 import Http2Client
from harness.servers.edges import CHAT, redis_frozen
from harness.servers.span_collector import SpanReceiver
from harness.stacks.attacked import MIB, Attacked, attacked_stack, served_neighbour
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.full, pytest.mark.timeout(1000)]

SECONDS_EACH = 60.0
ALONE = 120
"""Requests of the second client without an attack."""
GROWTH_BYTES = 320 * MIB
"""What edge and router may grow by: a client's 128 MiB of bodies, the decision records' 64 MiB, and buffers."""

Attack = Callable[[Attacked, float], object]


def megabytes_of_text(stack: Attacked, seconds: float) -> int:
    """Send the canary in every place of a body, through the edge and past it."""
    sent = 0
    until = time.monotonic() + seconds
    with httpx.Client(timeout=30) as client:
        for body in itertools.cycle(long_texts()):
            if time.monotonic() > until:
                return sent
            for url in (stack.edge.url, stack.router):
                client.post(url + CHAT, content=body, headers=stack.headers("fast"))
                sent += 1
            time.sleep(0.2)
    return sent


def slow_bodies(stack: Attacked, seconds: float) -> int:
    """Hold bodies that lack 64 bytes over 200 connections; return how many were refused."""
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as opened:
        clients = [slow_post(stack, opened) for _ in range(200)]
        push(clients, BODY_BYTES - 64, seconds / 2)
        time.sleep(max(0.0, until - time.monotonic()))
        return sum(is_refused(client) for client in clients)


def slow_http2_bodies(stack: Attacked, seconds: float) -> int:
    """Hold bodies over one HTTP/2 connection; return how many were refused."""
    with slow_streams(stack, seconds) as (refused, _):
        return refused


def silent_connections(stack: Attacked, seconds: float) -> int:
    """Keep up to 600 connections without a request, and open a new one for each that was closed."""
    opened: list[socket.socket] = []
    count = 0
    until = time.monotonic() + seconds
    try:
        for opening in itertools.cycle(OPENINGS.values()):
            if time.monotonic() > until:
                return count
            client = socket.create_connection(("127.0.0.1", stack.edge.port), timeout=20)
            client.sendall(opening)
            opened.append(client)
            count += 1
            if len(opened) > 600:
                opened.pop(0).close()
            time.sleep(0.01)
    finally:
        for client in opened:
            client.close()
    return count


def tiny_items(stack: Attacked, seconds: float) -> int:
    """Send bodies of a million items, two a second."""
    sent = 0
    until = time.monotonic() + seconds
    with httpx.Client(timeout=60) as client:
        for path, body in itertools.cycle(TINY_ITEMS.values()):
            if time.monotonic() > until:
                return sent
            client.post(stack.edge.url + path, content=body, headers=stack.headers("fast"))
            sent += 1
            time.sleep(0.4)
    return sent


def queue_flood(stack: Attacked, seconds: float) -> dict[str, int]:
    """Keep every slot busy and the queue full."""
    return asyncio.run(flood(stack, seconds))


def http2_floods(stack: Attacked, seconds: float) -> int:
    """Send every kind of frames that cost the edge more than the client; return how many connections were closed."""
    ended = 0
    until = time.monotonic() + seconds
    for attack, longest in itertools.cycle(FLOODS.values()):
        if time.monotonic() > until:
            return ended
        with socket.create_connection(("127.0.0.1", stack.edge.port), timeout=longest) as client:
            Http2Client(client)
            ended += closed(client, attack(), longest)
    return ended


def refused_keys(stack: Attacked, seconds: float) -> int:
    """Send requests with unknown keys that contain the canary."""
    sent = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = stack.edge.post(b"{}", key=f"sk-{CANARY}-{sent}")
        assert answer.status_code == 401
        sent += 1
        time.sleep(0.01)
    return sent


def frozen_store(stack: Attacked, seconds: float) -> int:
    """Send requests of a client with a budget while Redis hangs for half of the time."""
    sent = 0
    for freeze in (True, False):
        until = time.monotonic() + seconds / 2
        with redis_frozen(stack.redis_port) if freeze else contextlib.nullcontext():
            while time.monotonic() < until:
                body = {"model": "m", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 50}
                stack.post("metered", body)
                sent += 1
    return sent


@dataclass
class Spent:
    """What the streams of the client with a budget of a day have cost by their records."""

    streams: int = 0
    tokens: int = 0


def streams_left_early(spent: Spent) -> Attack:
    """Return the attack that leaves streams of chats and completions early, and counts their tokens in ``spent``."""

    def attack(stack: Attacked, seconds: float) -> int:
        until = time.monotonic() + seconds
        for path in itertools.cycle([path for path in BODIES if "completions" in path]):
            if time.monotonic() > until:
                return spent.streams
            used = stack.record(left_early(stack, path, "daily"))["tokens"]
            spent.streams += 1
            spent.tokens += used["prompt"] + used["completion"]
        return spent.streams

    return attack


@dataclass
class Memory:
    """The largest resident memory of edge and router, read four times a second in a thread."""

    stack: Attacked
    edge: int = 0
    router: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self._ended.wait(0.25):
            self.edge = max(self.edge, self.stack.edge_bytes())
            self.router = max(self.router, self.stack.router_bytes())

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch during the block."""
        thread = threading.Thread(target=self.watch)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


def signals(stack: Attacked, spans: SpanReceiver) -> Iterator[tuple[str, str]]:
    """Yield every signal of the stack with its name."""
    for log in (stack.router_log, stack.edge.log, stack.directory / "rate-limit-service.log"):
        yield log.name, log.read_text(errors="replace")
    urls = {
        "router metrics": f"{stack.router}/metrics",
        "rate limit metrics": f"http://127.0.0.1:{stack.budget_metrics}/metrics",
        "edge metrics": f"http://127.0.0.1:{stack.edge.telemetry_port}/stats/prometheus",
        "decisions": f"{stack.router}/debug/decisions?limit=10000",
    }
    for name, url in urls.items():
        yield name, httpx.get(url, timeout=60).text
    yield "spans", json.dumps([(span.name, dict(span.attributes)) for span in spans.spans], default=str)


def test_ten_minutes_of_attacks_harm_no_second_client(tmp_path: Path) -> None:
    """The ratio of the second client's 95th percentiles is printed; `unharmed_neighbour` judges it per attack."""
    spent = Spent()
    attacks: dict[str, Attack] = {
        "megabytes of text": megabytes_of_text,
        "slow bodies": slow_bodies,
        "slow bodies over HTTP/2": slow_http2_bodies,
        "silent connections": silent_connections,
        "a million tiny items": tiny_items,
        "queue flood": queue_flood,
        "streams left early": streams_left_early(spent),
        "HTTP/2 floods": http2_floods,
        "refused keys": refused_keys,
        "frozen store": frozen_store,
    }
    with SpanReceiver() as spans, attacked_stack(tmp_path, spans) as stack:
        # The first bodies of full size make both processes as large as they stay.
        before = (stack.edge_bytes(), stack.router_bytes())
        print(f"before: edge {before[0] // MIB} MiB, router {before[1] // MIB} MiB")
        with (
            served_neighbour(stack, "normal load", "bystander", ALONE // 10),
            served_neighbour(stack, "ten minutes", alone=ALONE) as neighbour,
        ):
            for name, attack in attacks.items():
                memory, began = Memory(stack), time.monotonic()
                with memory.watched():
                    result = attack(stack, SECONDS_EACH)
                took = time.monotonic() - began
                print(
                    f"| {name} | {took:.0f} s | {result} | {memory.edge // MIB} MiB | {memory.router // MIB} MiB |"
                )
                assert memory.edge - before[0] < GROWTH_BYTES, name
                assert memory.router - before[1] < GROWTH_BYTES, name
        ratio = neighbour.figures["p95_attacked"] / neighbour.figures["p95_alone"]
        print(f"95th percentile: {ratio:.2f} of its value alone")
        assert spent.streams > 20, "the attack must have happened"
        eventually(
            lambda: stack.spent_today() == spent.tokens,
            lambda: f"{stack.spent_today()} counted, {spent.tokens} used",
        )
        print(
            f"{spent.streams} streams left early: {spent.tokens} tokens used, {stack.spent_today()} charged"
        )
        assert spans.spans, "there are spans to look at"
        for name, text in signals(stack, spans):
            assert text, name
            assert CANARY not in text, f"{name}: {text[max(0, text.find(CANARY) - 200) :][:400]}"
