"""The tables of docs/capacity.md equal the program's output, and a simulation of 64 engines agrees."""

import math
from pathlib import Path

import pytest

from load_testing.capacity_plan import CELL_GPUS, CORE_BUSY, Costs, Gpu, plan, table
from load_testing.fleet_simulation import Run, simulate

DOCUMENT = Path(__file__).parents[2] / "docs" / "capacity.md"


def test_the_document_shows_what_the_program_computes() -> None:
    assert table(Gpu(), Costs()) in DOCUMENT.read_text()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_simulated_fleet_of_64_engines_does_what_was_computed(seed: int) -> None:
    planned = plan(64, Gpu(), Costs())
    run = Run(64, planned.routers, planned.requests_per_second, seconds=60, warm_up=20, seed=seed)
    happened = simulate(run, Gpu(), Costs())
    assert happened.requests_per_second == pytest.approx(planned.requests_per_second, rel=0.05)
    assert happened.chunks_per_second == pytest.approx(planned.chunks_per_second, rel=0.05)
    assert happened.streams == pytest.approx(planned.streams, rel=0.07)
    assert happened.router_cores == pytest.approx(planned.router_cores, rel=0.05)
    assert happened.busiest_router_to_mean * happened.router_cores / planned.routers < 1.0, (
        "no router is full"
    )
    assert happened.waited_ratio < 0.01, "at 80 % of its streams nobody waits for a place"
    assert happened.busiest_to_mean < 1.3, "routers that do not know of each other still spread the load"


def test_a_fleet_at_its_limit_makes_requests_wait() -> None:
    """The simulation can disagree: the plan fails without its reserve."""
    planned = plan(64, Gpu(busy=1.0), Costs())
    run = Run(64, planned.routers, 1.1 * planned.requests_per_second, seconds=60, warm_up=20, seed=1)
    happened = simulate(run, Gpu(), Costs())
    assert happened.waited_ratio > 0.2


def test_no_more_than_a_cell_stands_behind_one_set_of_routers() -> None:
    one, two = plan(CELL_GPUS, Gpu(), Costs()), plan(CELL_GPUS + 1, Gpu(), Costs())
    assert (one.cells, two.cells) == (1, 2)
    assert plan(1000, Gpu(), Costs(), cell_gpus=1000).cells == 1


@pytest.mark.parametrize("gpus", [1, 10, 100, 1000])
def test_one_replica_may_be_lost(gpus: int) -> None:
    planned = plan(gpus, Gpu(), Costs())
    left = planned.routers - planned.cells
    assert (
        planned.router_cores / left + gpus / planned.cells * Costs().router_probe_us / 1e6 <= CORE_BUSY + 1e-9
    )
    assert planned.edge_cores / (planned.edges - planned.cells) <= CORE_BUSY + 1e-9
    assert math.isfinite(planned.prometheus_memory_gb)
