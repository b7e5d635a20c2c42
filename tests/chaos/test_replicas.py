"""Routers and edges are killed and restarted under load: with two of each, only in-flight streams break."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from harness.chaos.faults import Fault, Proof, killed_once
from harness.chaos.load import Ending
from harness.chaos.replicas import Router, killed, more_edge, more_routers
from harness.chaos.scenario import Expected, Traffic, endure
from harness.chaos.table import Row
from harness.chaos.world import World, eventually
from harness.ports import free_port
from harness.servers.edges import Edge
from harness.servers.tcp_front import TcpFront, tcp_front
from harness.stacks.faults import process_state
from platform_contracts.prometheus import Prometheus

pytestmark = [pytest.mark.service, pytest.mark.full, pytest.mark.timeout(500)]


def until_healthy(front: TcpFront) -> None:
    eventually(lambda: all(front.healthy.values()), "every target of the front is healthy", 30)


def test_one_of_two_routers_is_killed(world: World, table: list[Row], tmp_path: Path) -> None:
    """In-flight streams end with a visible error.

    Requests without a response yet are refused, because the edge never resends a request that a router may
    have received. All other requests go to the other router.
    """

    @contextlib.contextmanager
    def fault(_: World) -> Iterator[Proof]:
        in_flight = routers[0].metric("router_in_flight")
        pid = killed(routers[0])
        yield Proof(f"the kernel has no process {pid}; it had {in_flight:.0f} requests in flight")
        assert process_state(pid) == ""
        routers[0].end()
        routers[0].start()
        until_healthy(front)

    with more_routers(world, tmp_path, 2) as routers, tcp_front([r.port for r in routers]) as front:
        until_healthy(front)
        with more_edge(world, tmp_path / "edge", front.port) as edge:
            row, answers = endure(
                world,
                "one of two routers killed",
                fault,
                Expected(alerts=["TargetDown"], allowed=[Ending.BROKEN, Ending.REFUSED]),
                Traffic(url=edge.url),
            )
    table.append(row)
    broken = [answer for answer in answers if answer.ending is Ending.BROKEN]
    assert all(answer.first_at for answer in broken), "only in-flight streams broke"
    refused = [answer for answer in answers if answer.ending is Ending.REFUSED]
    span = max((a.ended_at for a in refused), default=0) - min((a.ended_at for a in refused), default=0)
    assert span < 3, "only at the moment of the kill"


def test_both_routers_are_rolled(world: World, table: list[Row], tmp_path: Path) -> None:
    with more_routers(world, tmp_path, 2) as routers, tcp_front([r.port for r in routers]) as front:
        until_healthy(front)
        with more_edge(world, tmp_path / "edge", front.port) as edge:
            row, _ = endure(
                world,
                "routers rolled one after the other",
                rolled(routers, front),
                Expected(changes=[f"router-service of 127.0.0.1:{one.port} restarted" for one in routers]),
                Traffic(url=edge.url),
            )
    table.append(row)


def rolled(routers: list[Router], front: TcpFront) -> Fault:
    @contextlib.contextmanager
    def fault(_: World) -> Iterator[Proof]:
        before = [router.pid for router in routers]
        for router in routers:
            assert router.roll() == 0, "it exited by itself with 0"
            until_healthy(front)
        assert all(router.pid not in before for router in routers)
        yield Proof("other process ids; each ended by itself with 0 after SIGTERM")

    return fault


def test_the_only_router_is_killed(world: World, table: list[Row]) -> None:
    """Without a second router there is an outage of a second: the edge answers with an OpenAI error."""
    row, _ = endure(
        world,
        "the only router killed",
        killed_once("router"),
        Expected(
            allowed=[Ending.BROKEN, Ending.REFUSED, Ending.ERROR],
            changes=[f"router-service of 127.0.0.1:{world.stack.environment['ROUTER_PORT']} restarted"],
        ),
    )
    table.append(row)


def test_both_edges_are_rolled(world: World, table: list[Row], tmp_path: Path) -> None:
    router = int(world.stack.environment["ROUTER_PORT"])
    ports = [free_port(), free_port()]
    telemetry = {port: free_port() for port in ports}

    def one(port: int, age: str) -> AbstractContextManager[Edge]:
        folder = tmp_path / f"{port}-{age}"
        return more_edge(world, folder, router, port, telemetry_port=telemetry[port])

    with contextlib.ExitStack() as opened:
        world.rules_at_scale({"edge-gateway": [f"127.0.0.1:{port}" for port in telemetry.values()]})
        opened.callback(world.rules_at_scale)
        stacks = [opened.enter_context(contextlib.ExitStack()) for _ in ports]
        edges = [stack.enter_context(one(port, "old")) for stack, port in zip(stacks, ports, strict=True)]
        front = opened.enter_context(tcp_front(ports))
        until_healthy(front)
        with Prometheus(world.stack.url("PROMETHEUS_PORT")) as prometheus:
            for telemetry_port in telemetry.values():
                grown = f'envoy_server_uptime{{instance="127.0.0.1:{telemetry_port}"}} >= 5'
                # A new edge shows as a younger one. Envoy's uptime is 0 in its first seconds.
                eventually(lambda grown=grown: prometheus.values(grown), "the old edges' age is scraped", 60)

        @contextlib.contextmanager
        def fault(_: World) -> Iterator[Proof]:
            for stack, edge in zip(stacks, edges, strict=True):
                drain(edge)
                stack.close()
                assert edge.process.poll() is not None
                stack.enter_context(one(edge.port, "new"))
                until_healthy(front)
            yield Proof("both old Envoy processes ended, after the hook said that nothing was open any more")

        row, _ = endure(
            world,
            "edges rolled one after the other",
            fault,
            Expected(changes=[f"edge-gateway of 127.0.0.1:{port} restarted" for port in telemetry.values()]),
            Traffic(url=f"http://127.0.0.1:{front.port}"),
        )
    table.append(row)


def drain(edge: Edge) -> None:
    """Do what the pod's stop hook does."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "edge_gateway.main", "drain", "--admin-port", str(edge.admin_port)),
            *("--settle-seconds", "1", "--idle-seconds", "2", "--limit-seconds", "30"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
