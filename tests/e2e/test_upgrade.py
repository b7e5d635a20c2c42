"""Upgrade of the routers from the release before to this one, one replica at a time, under load.

Until there is a release, the one before is a commit of this repository. Its router runs with this checkout's packages.
"""

import asyncio
import io
import json
import subprocess
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.servers.edges import Edge, running_edge
from harness.servers.router_fleet import BIN, MODEL, Fleet, RouterPart
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "b21b1ba"
RATE = 20
TOKENS = 40
SESSIONS = 12


@pytest.fixture
def before(tmp_path: Path) -> list[str]:
    """Return the prefix of a command that runs the router of the release before."""
    done = subprocess.run(
        ["git", "archive", BEFORE, "services/router-service/src"],
        cwd=ROOT, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"commit {BEFORE}, the release before, is not in this checkout's history")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(tmp_path / "before")
    source = tmp_path / "before/services/router-service/src"
    return ["/usr/bin/env", f"PYTHONPATH={source}"]


@dataclass
class Seen:
    """What clients observed: complete answers, the backends of each session, and every other outcome."""

    good: int = 0
    replicas: set[str] = field(default_factory=set)
    sessions: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    lost: list[str] = field(default_factory=list)


async def _ask(http: httpx.AsyncClient, edge: Edge, number: int, seen: Seen) -> None:
    session = number % SESSIONS
    body = {
        "model": MODEL, "stream": True, "max_tokens": TOKENS, "min_tokens": TOKENS, "ignore_eos": True,
        "messages": [{"role": "user", "content": f"Tell me of the number {number}"}],
    }  # fmt: skip
    headers = edge.headers(x_session_id=f"session-{session}")
    try:
        async with http.stream(
            "POST", f"{edge.url}/v1/chat/completions", json=body, headers=headers
        ) as answer:
            text = (await answer.aread()).decode()
    except httpx.HTTPError as error:
        seen.lost.append(f"{number}: {type(error).__name__} {error}")
        return
    if answer.status_code != 200 or not text.rstrip().endswith("data: [DONE]") or '"error"' in text:
        seen.lost.append(f"{number}: {answer.status_code} {text[-200:]}")
        return
    seen.good += 1
    seen.sessions[session].add(answer.headers["x-route-backend"])


async def _load(edge: Edge, upgrade: Callable[[], None]) -> Seen:
    """Send at a constant rate during ``upgrade`` and two seconds before and after it; retry nothing."""
    seen = Seen()
    tasks: set[asyncio.Task[None]] = set()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as http:
        start = time.monotonic()
        upgrading: asyncio.Task[None] | None = None
        until: float | None = None
        number = 0
        while until is None or time.monotonic() < until:
            if upgrading is None and time.monotonic() > start + 2:
                upgrading = asyncio.create_task(asyncio.to_thread(upgrade))
            if upgrading is not None and upgrading.done() and until is None:
                until = time.monotonic() + 2
            number += 1
            tasks.add(asyncio.create_task(_ask(http, edge, number, seen)))
            await asyncio.sleep(max(0.0, start + number / RATE - time.monotonic()))
        await asyncio.gather(*tasks)
        assert upgrading is not None
        await upgrading
    return seen


def _replayed(router: RouterPart, log: Path, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """Return the result of ``router-service replay`` of a log with the router's configuration."""
    done = subprocess.run(
        [*prefix, BIN / "router-service", "replay", "--json", "--config", router.command[-1], log],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _pairs(routers: Sequence[RouterPart]) -> Iterator[tuple[RouterPart, Path, Path]]:
    """Yield each router with the logs of its two releases."""
    for router in routers:
        yield router, router.log.with_suffix(".before"), router.log


def test_routers_are_upgraded_under_load_without_a_lost_request(before: list[str], tmp_path: Path) -> None:
    """Sessions keep their backend, because both releases read the same pins in Redis."""
    with Fleet(tmp_path) as fleet:
        fleet.add_redis()
        for name in ("backend-a", "backend-b"):
            fleet.add_engine(name)
        # The edge notices a router that is not ready before that router stops accepting requests.
        sections = {"server": {"settle_seconds": 3.0}, "timeouts": {"total_seconds": 20}}
        routers = [fleet.add_router(wrapper=before, **sections) for _ in range(2)]
        replicas = [{"host": "127.0.0.1", "port": router.port} for router in routers]
        settings = {"router": {"replicas": replicas, "health_interval_seconds": 0.3}}
        with running_edge(tmp_path / "edge", routers[0].port, settings) as edge:
            eventually(lambda: all(edge.is_healthy(one.port) for one in routers), "both are healthy")

            def upgrade() -> None:
                for router in routers:
                    router.end()
                    router.log.rename(router.log.with_suffix(".before"))
                    router.command = router.command[len(before) :]
                    router.start()
                    eventually(lambda now=router: now.usable() == 2, "it uses both engines")  # type: ignore[misc]
                    eventually(lambda now=router: edge.is_healthy(now.port), "the edge uses it")  # type: ignore[misc]

            seen = asyncio.run(_load(edge, upgrade))
    print(f"\n{seen.good} good, {len(seen.lost)} lost")
    assert seen.lost == []
    assert {len(backends) for backends in seen.sessions.values()} == {1}
    replayed = 0
    for router, old, new in _pairs(routers):
        for log, prefix in ((old, before), (old, ()), (new, ())):
            result = _replayed(router, log, prefix)
            assert result["total"] > 0, "this release of this router served requests"
            assert (result["same"], result["cannot_tell"]) == (result["total"], 0)
        replayed += _replayed(router, old)["total"] + _replayed(router, new)["total"]
    assert replayed == seen.good
