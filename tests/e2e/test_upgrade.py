"""Upgrade of the routers from the release before to this one, one replica at a time, under load.

Until there is a release, the one before is a commit of this repository. Its router runs with this checkout's packages.
"""

import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.chaos.load import Ending
from harness.chaos.world import steady_load
from harness.servers.edges import CLIENT_KEY, running_edge
from harness.servers.router_fleet import BIN, Fleet, RouterPart
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

            options = ("--sessions", str(SESSIONS))
            with steady_load(
                CLIENT_KEY, tmp_path / "load.jsonl", RATE, TOKENS, *options, url=edge.url
            ) as load:
                load.settle()
                upgrade()
                time.sleep(2)
                answers = load.finish()
    print(f"\n{len(answers)} answers")
    assert [one for one in answers if one.ending is not Ending.GOOD] == []
    # The load numbers its sessions in turn.
    backends = [{one.backend for one in answers[number::SESSIONS]} for number in range(SESSIONS)]
    assert {len(names) for names in backends} == {1}
    replayed = 0
    for router, old, new in _pairs(routers):
        for log, prefix in ((old, before), (old, ()), (new, ())):
            result = _replayed(router, log, prefix)
            assert result["total"] > 0, "this release of this router served requests"
            assert (result["same"], result["cannot_tell"]) == (result["total"], 0)
        replayed += _replayed(router, old)["total"] + _replayed(router, new)["total"]
    assert replayed == len(answers)
