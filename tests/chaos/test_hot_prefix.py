"""Sixteen engines and one prefix that most requests share: prefix affinity may not pile them up."""

import concurrent.futures
import random
from pathlib import Path

import httpx
import pytest

from harness.router_fleet import MODEL, fleet_in

pytestmark = [pytest.mark.service, pytest.mark.timeout(300)]

ENGINES, REQUESTS, AT_ONCE = 16, 1600, 128
HOT = "You are the assistant of a large library. " * 40


def test_no_engine_gets_more_than_1_3_times_the_mean(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    draws = random.Random(seed)
    with fleet_in(tmp_path) as fleet:
        for number in range(ENGINES):
            fleet.add_engine(f"engine-{number:02d}", "--step-seconds", "0.02")
        pool = {
            "general": {
                "policy": "prefix_affinity",
                "models": [MODEL],
                "backends": {name: {"url": engine.url} for name, engine in fleet.engines.items()},
            }
        }
        router = fleet.add_router(pools=pool)

        def ask(question: int) -> int:
            lead = HOT if question % 4 else f"Question {question} of its own kind. " * 40
            body = {
                "model": MODEL,
                "messages": [
                    {"role": "system", "content": lead},
                    {"role": "user", "content": f"Book {question}?"},
                ],
                "max_tokens": 8,
                "ignore_eos": True,
            }
            return http.post(f"{router.url}/v1/chat/completions", json=body).status_code

        limits = httpx.Limits(max_connections=AT_ONCE)
        with (
            httpx.Client(timeout=60, limits=limits) as http,
            concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads,
        ):
            statuses = list(threads.map(ask, draws.sample(range(1_000_000), REQUESTS)))
        assert set(statuses) == {200}
        served = {
            name: httpx.get(f"{engine.url}/sim/state").json()["generation_tokens"] / 8
            for name, engine in fleet.engines.items()
        }
    assert sum(served.values()) == REQUESTS, "the engines' own counts"
    print(
        f"most {max(served.values()):.0f}, mean {REQUESTS / ENGINES:.0f}, fewest {min(served.values()):.0f}"
    )
    assert max(served.values()) <= 1.3 * REQUESTS / ENGINES
