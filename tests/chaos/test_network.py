"""The network between the layers becomes slow and lossy: requests are slower, none is lost."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.chaos.faults import Proof
from harness.chaos.load import Ending
from harness.chaos.replicas import Addresses, Router, more_edge, more_routers
from harness.chaos.scenario import Expected, Traffic, endure
from harness.chaos.table import Row
from harness.chaos.wire import HERE, THERE, Wire, own_network, wire
from harness.chaos.world import World, chaos_world
from harness.servers.edges import Edge

pytestmark = [
    pytest.mark.service,
    pytest.mark.full,
    pytest.mark.timeout(500),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
]

DELAY_SECONDS = 0.2
LOSS = 0.05


@pytest.fixture(scope="module")
def cable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Wire, Router, Edge]]:
    """A stack in its own network namespace, with one router behind a simulated cable and an edge in front of it."""
    folder: Path = tmp_path_factory.mktemp("network")
    with (
        own_network(),
        wire() as laid,
        chaos_world(folder) as world,
        more_routers(world, folder / "far", 1, wrapper=laid.inside, addresses=Addresses(THERE, HERE)) as (
            router,
        ),
        more_edge(world, folder / "edge", router.port, router_host=THERE) as edge,
    ):
        yield world, laid, router, edge


def engines(world: World) -> tuple[int, int]:
    return tuple(int(world.stack.environment[f"ENGINE_{letter}_PORT"]) for letter in "AB")  # type: ignore[return-value]


def connect_seconds(router: Router) -> float:
    """Return the TCP connect time to the far router in seconds, measured by the test itself."""
    began = time.monotonic()
    socket.create_connection((router.host, router.port), timeout=30).close()
    return time.monotonic() - began


def test_delay_between_edge_and_router(cable: tuple[World, Wire, Router, Edge], table: list[Row]) -> None:
    world, laid, router, edge = cable

    @contextlib.contextmanager
    def fault(_: World) -> Iterator[Proof]:
        before = connect_seconds(router)
        laid.treat(router.port, delay_seconds=DELAY_SECONDS)
        after = connect_seconds(router)
        assert after - before > DELAY_SECONDS
        yield Proof(f"a TCP connection there takes {after * 1000:.0f} ms instead of {before * 1000:.1f}")
        laid.heal()

    row, _ = endure(
        world,
        "200 ms between edge and router",
        fault,
        Expected(verdict="routing", alerts=["EdgeRunsLate"]),
        Traffic(url=edge.url, routers=[router]),
        well_seconds=30,
    )
    table.append(row)


def test_delay_between_router_and_engines(cable: tuple[World, Wire, Router, Edge], table: list[Row]) -> None:
    world, laid, router, edge = cable

    @contextlib.contextmanager
    def fault(_: World) -> Iterator[Proof]:
        before = laid.treat(*engines(world), delay_seconds=DELAY_SECONDS)["delayed"]
        time.sleep(8)
        delayed = laid.treat(*engines(world), delay_seconds=DELAY_SECONDS)["delayed"] - before
        assert delayed > 100
        yield Proof(f"{delayed} packets delayed by 200 ms in 8 s, counted by the link")
        laid.heal()

    row, answers = endure(
        world,
        "200 ms between router and engines",
        fault,
        Expected(verdict="routing", alerts=["BackendFarAway"]),
        Traffic(url=edge.url, routers=[router]),
    )
    late = sum(answer.ttft_seconds is not None and answer.ttft_seconds > DELAY_SECONDS for answer in answers)
    assert late > 20, "clients felt it"
    table.append(row)


def test_loss_on_every_way(cable: tuple[World, Wire, Router, Edge], table: list[Row]) -> None:
    world, laid, router, edge = cable

    @contextlib.contextmanager
    def fault(_: World) -> Iterator[Proof]:
        before = laid.retransmitted()
        dropped = laid.treat(router.port, *engines(world), loss=LOSS)["dropped"]
        yield (proof := Proof())
        dropped = laid.heal()["dropped"] - dropped
        again = laid.retransmitted() - before
        assert again > 5
        proof.text = f"the far kernel has sent {again} segments again; {dropped} packets dropped"

    row, _ = endure(
        world,
        "5 % loss between edge, router and engines",
        fault,
        Expected(alerts=["BackendLosesPackets"]),
        Traffic(url=edge.url, routers=[router]),
    )
    table.append(row)


def test_a_router_without_ports(cable: tuple[World, Wire, Router, Edge], table: list[Row]) -> None:
    """No new connection to an engine can be opened: open connections serve requests, the rest are refused."""
    world, laid, router, edge = cable

    @contextlib.contextmanager
    def fault(_: World) -> Iterator[Proof]:
        with laid.ports_taken(*engines(world)) as taken, world.under_load(60, url=edge.url) as burst:
            yield (proof := Proof())
            proof.answers = burst.finish()
        said = "Cannot assign requested address"
        assert said in router.log.read_text(), "the router logs it"
        proof.text = (
            f"a client in the router's namespace uses {taken} ports and gets no further one (EADDRNOTAVAIL)"
        )

    row, _ = endure(
        world,
        "a router without local ports",
        fault,
        Expected(alerts=["AvailabilityBudgetBurningFast"], allowed=[Ending.REFUSED, Ending.ERROR]),
        Traffic(url=edge.url, routers=[router]),
    )
    table.append(row)
    assert row.refused > 0
