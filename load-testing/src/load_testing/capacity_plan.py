"""Calculates the routers, edges, Redis and telemetry that a fleet of GPUs needs. Pure arithmetic.

`docs/capacity.md` shows it; its tables are written by `load-testing plan`, and a discrete-event
simulation of 64 engines checks it (`fleet_simulation.py`).
"""

import argparse
import math
import sys
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Gpu:
    """The capacity of one GPU. Assumed, not measured here: replace it with the result of `make capacity` on
    your GPU.

    A stream gets a token every ``step_seconds + step_seconds_per_stream × streams``.
    """

    streams: int = 64
    step_seconds: float = 0.012
    step_seconds_per_stream: float = 0.0002
    tokens_per_answer: float = 256.0
    busy: float = 0.8  # planned utilization of the streams

    @property
    def planned_streams(self) -> float:
        return self.streams * self.busy

    @property
    def tokens_per_second(self) -> float:
        return self.planned_streams / (
            self.step_seconds + self.step_seconds_per_stream * self.planned_streams
        )

    @property
    def requests_per_second(self) -> float:
        return self.tokens_per_second / self.tokens_per_answer


ROUTER_CPU_US = ((2, 136.0, 27.1), (16, 156.0, 28.6), (64, 175.0, 29.5), (1000, 196.0, 38.5))
"""Backends, CPU µs per request, CPU µs per chunk of a router (`make bench SCALE=1`, docs/performance.md)."""


@dataclass(frozen=True)
class Costs:
    """Unit costs, measured or assumed; docs/capacity.md says which."""

    router_cpu_us: tuple[tuple[int, float, float], ...] = ROUTER_CPU_US
    router_probe_us: float = 75.0
    edge_request_us: float = 170.0
    edge_chunk_us: float = 24.2
    redis_request_us: float = 25.0
    router_memory_mb: float = 117.0
    router_stream_kb: float = 23.0
    log_line_bytes: float = 1500.0
    series_per_router_and_backend: float = 4.0
    series_per_engine: float = 700.0
    series_per_replica: float = 900.0
    probe_interval_seconds: float = 1.0
    scrape_interval_seconds: float = 15.0
    bytes_per_sample: float = 1.7
    prometheus_kb_per_series: float = 4.0

    def of_router(self, backends: float) -> tuple[float, float]:
        """Return the router's CPU µs per request and per chunk in front of so many backends: linear between two
        measured sizes, and outside them the cost of the nearest one.
        """
        sizes = self.router_cpu_us
        if backends <= sizes[0][0]:
            return sizes[0][1:]
        for (few, *low), (many, *high) in pairwise(sizes):
            if backends <= many:
                share = (backends - few) / (many - few)
                request, chunk = (a + share * (b - a) for a, b in zip(low, high, strict=True))
                return request, chunk
        return sizes[-1][1:]


CORE_BUSY = 0.6
"""Share of a core that is planned for: a replica may be lost, and time to first token grows with its queue."""

CELL_GPUS = 128
"""Default maximum of GPUs behind one set of routers. See "Why cells" in docs/capacity.md."""


@dataclass(frozen=True)
class Plan:
    """The resources that a fleet needs. Replicas have one core each; ``spare`` replicas are included."""

    gpus: int
    cells: int
    requests_per_second: float
    streams: float
    chunks_per_second: float
    router_cores: float
    probe_cores: float
    routers: int
    router_memory_mb: float
    edge_cores: float
    edges: int
    redis_cores: float
    redis_commands_per_second: float
    log_gb_per_day: float
    series: float
    samples_per_second: float
    prometheus_memory_gb: float
    disk_gb_per_day: float


def plan(gpus: int, gpu: Gpu, costs: Costs, cell_gpus: int = CELL_GPUS) -> Plan:
    """Return the plan for ``gpus`` GPUs, with at most ``cell_gpus`` behind one set of routers."""
    cells = math.ceil(gpus / cell_gpus)
    in_cell = gpus / cells
    requests = gpu.requests_per_second * in_cell
    chunks = gpu.tokens_per_second * in_cell
    request_us, chunk_us = costs.of_router(in_cell)
    traffic = (requests * request_us + chunks * chunk_us) / 1e6
    # Every router probes every backend; more routers do not divide this cost.
    probing = in_cell / costs.probe_interval_seconds * costs.router_probe_us / 1e6
    needed = math.ceil(traffic / max(CORE_BUSY - probing, 0.05))
    routers = needed + 1 if needed > 1 else 2
    edge_cores = (requests * costs.edge_request_us + chunks * costs.edge_chunk_us) / 1e6
    edges = max(math.ceil(edge_cores / CORE_BUSY) + 1, 2)
    series = cells * (
        routers * (in_cell * costs.series_per_router_and_backend + costs.series_per_replica)
        + in_cell * costs.series_per_engine
        + edges * costs.series_per_replica
    )
    samples = series / costs.scrape_interval_seconds
    return Plan(
        gpus=gpus,
        cells=cells,
        requests_per_second=requests * cells,
        streams=gpu.planned_streams * gpus,
        chunks_per_second=chunks * cells,
        router_cores=traffic * cells,
        probe_cores=probing * routers * cells,
        routers=routers * cells,
        router_memory_mb=costs.router_memory_mb
        + gpu.planned_streams * in_cell / routers * costs.router_stream_kb / 1000,
        edge_cores=edge_cores * cells,
        edges=edges * cells,
        redis_cores=requests * cells * costs.redis_request_us / 1e6,
        redis_commands_per_second=2 * requests * cells,
        log_gb_per_day=requests * cells * costs.log_line_bytes * 86400 / 1e9,
        series=series,
        samples_per_second=samples,
        prometheus_memory_gb=series * costs.prometheus_kb_per_series / 1e6,
        disk_gb_per_day=samples * costs.bytes_per_sample * 86400 / 1e9,
    )


FLEETS = (10, 100, 1000)
_ROWS = (
    ("cells", "{0.cells}"),
    ("requests/s", "{0.requests_per_second:,.0f}"),
    ("concurrent streams", "{0.streams:,.0f}"),
    ("tokens/s, each a chunk", "{0.chunks_per_second:,.0f}"),
    ("router cores for traffic", "{0.router_cores:.1f}"),
    ("router cores for probes", "{0.probe_cores:.1f}"),
    ("**routers** of one core", "**{0.routers}**"),
    ("memory of a router, MB", "{0.router_memory_mb:,.0f}"),
    ("edge cores", "{0.edge_cores:.1f}"),
    ("**edges** of one core", "**{0.edges}**"),
    ("Redis commands/s", "{0.redis_commands_per_second:,.0f}"),
    ("Redis cores, all cells", "{0.redis_cores:.3f}"),
    ("decision log, GB/day", "{0.log_gb_per_day:,.0f}"),
    ("Prometheus series", "{0.series:,.0f}"),
    ("samples/s", "{0.samples_per_second:,.0f}"),
    ("Prometheus memory, GB", "{0.prometheus_memory_gb:.1f}"),
    ("Prometheus disk, GB/day", "{0.disk_gb_per_day:.1f}"),
)


def table(gpu: Gpu, costs: Costs, cell_gpus: int = CELL_GPUS) -> str:
    """Return the plans for all fleets as Markdown."""
    plans = [plan(gpus, gpu, costs, cell_gpus) for gpus in FLEETS]
    lines = ["| | " + " | ".join(f"{gpus:,} GPUs" for gpus in FLEETS) + " |", "|---|" + "---|" * len(FLEETS)]
    for name, template in _ROWS:
        lines.append(f"| {name} | " + " | ".join(template.format(one) for one in plans) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the plan's table."""
    parser = argparse.ArgumentParser(
        "load-testing plan", description="Print what a fleet needs in addition to its GPUs."
    )
    parser.add_argument(
        "--cell-gpus",
        type=int,
        default=CELL_GPUS,
        help="most GPUs behind one set of routers (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.cell_gpus < 1:
        parser.error(f"--cell-gpus: {options.cell_gpus} is not a number of GPUs; give 1 or more")
    print(table(Gpu(), Costs(), options.cell_gpus))
    return 0


if __name__ == "__main__":
    sys.exit(main())
