"""`router-service what-if` against a real run: a router and engine simulators as processes, requests over sockets.

A load is recorded on two engines, predicted for three, and sent to three.
"""

import asyncio
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.servers.router_fleet import BIN, MODEL, Fleet, RouterPart, fleet_in
from harness.waiting import eventually

pytestmark = [
    pytest.mark.full,
    pytest.mark.service,
    pytest.mark.untimed,
    pytest.mark.timeout(600),
]

WITHIN = 0.15
SECONDS = 75.0
RATE = 2.2
ENGINE = (
    *("--step-seconds", "0.05", "--prefill-seconds-per-token", "0.0015", "--max-num-seqs", "12"),
    *("--jitter", "0"),
)
"""Slow enough that the times of sockets and processes are small beside the engine's."""

PATIENT = {"connect_seconds": 5, "first_token_seconds": 60, "idle_seconds": 60, "total_seconds": 120}


def fleet_of(fleet: Fleet, engines: int) -> RouterPart:
    for number in range(engines):
        fleet.add_engine(f"engine-{number}", *ENGINE)
    return fleet.add_router(timeouts=PATIENT)


def arrivals(seed: int) -> list[tuple[float, int, int]]:
    """Return when each request is sent, its words and its tokens."""
    draws = random.Random(seed)
    at, found = 0.0, []
    while (at := at + draws.expovariate(RATE)) < SECONDS:
        found.append((at, draws.randint(20, 250), draws.randint(8, 60)))
    return found


async def send(router: RouterPart, seed: int) -> None:
    """Send the load with unique texts, so that no prefix is cached."""
    draws = random.Random(seed + 1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    url = router.url + "/v1/chat/completions"
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:

        async def one(at: float, words: int, tokens: int) -> None:
            text = " ".join(f"w{draws.randrange(10_000)}" for _ in range(words))
            await asyncio.sleep(began + at - loop.time())
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": text}],
                "max_tokens": tokens,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            answer = await client.post(url, json=body)
            assert answer.status_code == 200, answer.text

        await asyncio.gather(*(one(*request) for request in arrivals(seed)))


def asked(router: RouterPart, requests: int, *options: str) -> dict[str, Any]:
    """Return what-if's answer about the router's log, once it has all records."""
    log: Path = router.log
    eventually(lambda: log.read_text().count('"first_token_ms"') >= requests, "every record is written", 60)
    command = [BIN / "router-service", "what-if", log, "--config", router.command[-1], "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_prediction_is_within_15_percent_of_a_run_on_sockets(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    requests = len(arrivals(seed))
    print(f"seed {seed}: {requests} requests in {SECONDS:.0f} s")
    folders = [tmp_path / name for name in ("recorded", "real")]
    for folder in folders:
        folder.mkdir()
    with fleet_in(folders[0]) as fleet:
        router = fleet_of(fleet, 2)
        asyncio.run(send(router, seed))
        predicted = asked(router, requests, "--engines", "3")
    with fleet_in(folders[1]) as fleet:
        router = fleet_of(fleet, 3)
        asyncio.run(send(router, seed))
        real = asked(router, requests)["recorded"]
    print(f"recorded on 2 engines {predicted['recorded']}, fitted {predicted['engine']}")
    print(f"simulated as recorded: errors {predicted['simulated_as_recorded']['errors']}")
    assert real["engines"] == 3
    errors = {name: predicted["asked"][name] / real[name] - 1 for name in ("p50", "p95")}
    for name, error in errors.items():
        print(
            f"{name}: predicted {predicted['asked'][name]:.3f} s, was {real[name]:.3f} s, error {error:+.1%}"
        )
    assert max(map(abs, errors.values())) <= WITHIN
