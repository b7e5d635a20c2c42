"""Upgrade of edges and routers from the release before to this one, one replica at a time, under load.

Until there is a release, the one before is a commit of this repository. Its programs run with this checkout's packages.
"""

import contextlib
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.chaos.load import Ending
from harness.chaos.world import steady_load
from harness.ports import free_port
from harness.servers.edges import CLIENT_KEY, Edge, running_edge
from harness.servers.router_fleet import BIN, Fleet, RouterPart
from harness.servers.tcp_front import tcp_front
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
BEFORE = "b21b1ba"
RATE = 20
TOKENS = 40
SESSIONS = 12


@pytest.fixture
def before(tmp_path: Path) -> list[str]:
    """Return the prefix of a command that runs the edge or the router of the release before."""
    edge, router = "services/edge-gateway", "services/router-service/src"
    done = subprocess.run(
        ["git", "archive", BEFORE, f"{edge}/src", f"{edge}/envoy", router],
        cwd=ROOT, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"commit {BEFORE}, the release before, is not in this checkout's history")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(tmp_path / "before")
    sources = ":".join(str(tmp_path / "before" / source) for source in (router, f"{edge}/src"))
    return ["/usr/bin/env", f"PYTHONPATH={sources}"]


class Edges:
    """Two older edges, and two of this release that replace them one at a time, each at its own port."""

    def __init__(self, directory: Path, routers: Sequence[RouterPart], before: Sequence[str]) -> None:
        self._directory, self._routers, self._before = directory, routers, before
        self.ports = [free_port() for _ in range(4)]
        self._running: list[tuple[Edge, contextlib.ExitStack]] = []

    @property
    def running(self) -> list[Edge]:
        """Return the edges, oldest first."""
        return [edge for edge, _ in self._running]

    def _start(self, port: int, settings: dict[str, Any], wrapper: Sequence[str] = ()) -> Edge:
        stack = contextlib.ExitStack()
        directory = self._directory / f"edge-{port}"
        edge = stack.enter_context(
            running_edge(directory, 0, {"router": settings}, port=port, wrapper=wrapper)
        )
        self._running.append((edge, stack))
        return edge

    def add_older(self, port: int, router: RouterPart) -> None:
        """Start an edge of the release before. It finds several routers only by their name, so it gets one."""
        self._start(port, {"port": router.port}, self._before)

    def replace_oldest(self, port: int) -> None:
        """Start an edge of this release at ``port``; then drain and end the oldest as the chart's stop hook does."""
        replicas = [{"host": "127.0.0.1", "port": router.port} for router in self._routers]
        self._start(port, {"port": replicas[0]["port"], "replicas": replicas, "health_interval_seconds": 0.3})
        old, stack = self._running.pop(0)
        drain = [*self._before, sys.executable, "-m", "edge_gateway.main", "drain"]
        drain += ["--admin-port", str(old.admin_port), "--settle-seconds", "0.5", "--idle-seconds", "0.5"]
        subprocess.run(drain, check=True, timeout=60)
        stack.close()

    def close(self) -> None:
        """End every edge."""
        for _, stack in self._running:
            stack.close()


def replace_router(router: RouterPart, before: Sequence[str], edges: Edges) -> None:
    """End a router of the release before, keep its log, and start this release at its port."""
    router.end()
    router.log.rename(router.log.with_suffix(".before"))
    router.command = router.command[len(before) :]
    router.start()
    eventually(lambda: router.usable() == 2, "it uses both engines")
    eventually(lambda: all(edge.is_healthy(router.port) for edge in edges.running), "the edges use it")


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


def test_edges_and_routers_are_upgraded_under_load_without_a_lost_request(
    before: list[str], tmp_path: Path
) -> None:
    """Each release works with the other, and sessions keep their backend, because all routers read the same pins.

    The first older edge sends to an older router, the second to a new one, as after an upgrade of the routers alone.
    """
    with Fleet(tmp_path) as fleet:
        fleet.add_redis()
        for name in ("backend-a", "backend-b"):
            fleet.add_engine(name)
        # The edge notices a router that is not ready before that router stops accepting requests.
        sections: dict[str, Any] = {"server": {"settle_seconds": 3.0}, "timeouts": {"total_seconds": 20}}
        routers = [fleet.add_router(wrapper=before, **sections) for _ in range(2)]
        new = fleet.add_router(**sections)
        with (
            contextlib.closing(Edges(tmp_path, [*routers, new], before)) as edges,
            tcp_front(edges.ports) as front,
        ):
            older, newer = edges.ports[:2], edges.ports[2:]
            edges.add_older(older[0], routers[0])
            edges.add_older(older[1], new)
            eventually(lambda: all(front.healthy[port] for port in older), "both edges are healthy")
            options, url = ("--sessions", str(SESSIONS)), f"http://127.0.0.1:{front.port}"
            with steady_load(CLIENT_KEY, tmp_path / "load.jsonl", RATE, TOKENS, *options, url=url) as load:
                load.settle()
                for port in newer:
                    edges.replace_oldest(port)
                for router in routers:
                    replace_router(router, before, edges)
                time.sleep(2)
                answers = load.finish()
            assert [edge.port for edge in edges.running] == newer
    print(f"\n{len(answers)} answers")
    assert [one for one in answers if one.ending is not Ending.GOOD] == []
    # The load numbers its sessions in turn.
    backends = [{one.backend for one in answers[number::SESSIONS]} for number in range(SESSIONS)]
    assert {len(names) for names in backends} == {1}
    replayed = 0
    for router, old_log, new_log in _pairs(routers):
        for log, prefix in ((old_log, before), (old_log, ()), (new_log, ())):
            result = _replayed(router, log, prefix)
            assert result["total"] > 0, "this release of this router served requests"
            assert (result["same"], result["cannot_tell"]) == (result["total"], 0)
        replayed += _replayed(router, old_log)["total"] + _replayed(router, new_log)["total"]
    replayed += _replayed(new, new.log)["total"]
    assert replayed == len(answers)
