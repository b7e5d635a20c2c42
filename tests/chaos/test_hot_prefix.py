"""Sixteen engines and one prefix that most requests share: prefix affinity must not overload an engine."""

import contextlib
import json
import random
import socket
from pathlib import Path

import httpx
import pytest

from harness.chaos.world import eventually
from harness.servers.router_fleet import MODEL, fleet_in

pytestmark = [pytest.mark.service, pytest.mark.timeout(300)]

ENGINES, REQUESTS = 16, 400
HOT = "You are the assistant of a large library. " * 40


def test_no_engine_has_more_than_1_3_times_the_mean_at_once(tmp_path: Path) -> None:
    """All requests are in flight together, so the counts show load and not the speed of this machine."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    draws = random.Random(seed)
    with fleet_in(tmp_path) as fleet, contextlib.ExitStack() as clients:
        for number in range(ENGINES):
            # Half a second per token, so every request outlasts the test.
            fleet.add_engine(f"engine-{number:02d}", "--step-seconds", "0.5")
        pool = {
            "general": {
                "policy": "prefix_affinity",
                "models": [MODEL],
                "backends": {name: {"url": engine.url} for name, engine in fleet.engines.items()},
            }
        }
        waits = {"connect_seconds": 5, "first_token_seconds": 120, "idle_seconds": 120, "total_seconds": 600}
        router = fleet.add_router(pools=pool, timeouts=waits)
        for question in draws.sample(range(1_000_000), REQUESTS):
            lead = HOT if draws.random() < 0.75 else f"Question {question} of its own kind. " * 40
            body = json.dumps(
                {
                    "model": MODEL,
                    "messages": [
                        {"role": "system", "content": lead},
                        {"role": "user", "content": f"Book {question}?"},
                    ],
                    "max_tokens": 2000,
                    "ignore_eos": True,
                    "stream": True,
                }
            ).encode()
            client = clients.enter_context(socket.create_connection(("127.0.0.1", router.port), timeout=30))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
        holding: dict[str, int] = {}

        def all_under_way() -> bool:
            for name, engine in fleet.engines.items():
                state = httpx.get(f"{engine.url}/sim/state", timeout=30).json()
                holding[name] = state["running"] + state["waiting"]
            return sum(holding.values()) == REQUESTS

        eventually(all_under_way, lambda: f"every request is in flight: {holding}", 120)
    mean = REQUESTS / ENGINES
    print(
        f"most {max(holding.values())}, mean {mean:.0f}, fewest {min(holding.values())}, counted by the engines"
    )
    assert max(holding.values()) <= 1.3 * mean
