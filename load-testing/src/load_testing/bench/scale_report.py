"""The report of `make bench SCALE=1`: figures by system and number of backends, then the targets; measures nothing."""

import statistics
from collections.abc import Mapping, Sequence

from load_testing.bench.report import WORDS, Target, aligned, judged, with_spread
from load_testing.bench.systems import OURS

Results = Mapping[int, Mapping[str, Mapping[str, Sequence[float]]]]
"""Number of backends, system, measure: the value of each round."""

ROWS = (
    ("idle_cpu_percent", "idle CPU, % of a core"),
    ("loop_lag_p99_ms", "loop lag p99, idle, ms"),
    ("decide_us", "decision µs (wall)"),
    ("cpu_us_per_request", "CPU µs/request c=32"),
    ("requests_per_second", "requests/s"),
    ("cpu_us_per_chunk", "CPU µs/chunk 256 streams"),
    ("series_per_backend", "series per backend"),
    ("series", "series"),
    ("scrape_ms", "scrape ms"),
    ("scrape_held_ms", "loop held by a scrape, ms"),
    ("memory_mb", "memory MB"),
    ("dead_out_seconds", "dead backend out s"),
    ("new_in_seconds", "new backend in s"),
    ("sigterm_seconds", "SIGTERM to exit s"),
)
"""Measure and heading."""

FLEET = 1000
"""The number of backends that the targets are for."""


def targets(results: Results, decisions: Mapping[int, float]) -> list[Target]:
    """Return every target; ``decisions``: CPU µs of one decision with 100 rules, by number of backends."""

    def of(measure: str, size: int = FLEET, system: str = OURS) -> float | None:
        values = results.get(size, {}).get(system, {}).get(measure)
        return statistics.median(values) if values else None

    def ratio(over: float | None, under: float | None) -> float | None:
        return over / under if over is not None and under else None

    held = results.get(FLEET, {}).get(OURS, {}).get("scrape_held_ms", ())
    cost, peer = "cpu_us_per_request", "vllm-router"
    return [
        *(judged(f"decision, 100 rules, {n:,} backends, CPU µs", decisions.get(n), limit)
          for n, limit in ((64, 35.0), (1000, 60.0))),
        judged("idle CPU, % of a core", of("idle_cpu_percent"), 8.0),
        judged("loop lag p99, idle, ms", of("loop_lag_p99_ms"), 5.0),
        judged("CPU/request, of that with 2 backends", ratio(of(cost), of(cost, 2)), 1.15),
        judged(f"CPU/request, of {peer} with as many", ratio(of(cost), of(cost, FLEET, peer)), 1.3),
        judged("series", of("series"), 6000.0),
        judged("scrape, ms", of("scrape_ms"), 50.0),
        judged("longest time that a scrape held the loop, ms", max(held, default=None), 5.0),
        judged("memory, MB", of("memory_mb"), 140.0),
    ]  # fmt: skip


def table(results: Results, decisions: Mapping[int, float]) -> str:
    """Return the medians with the minimum and maximum of the rounds, then every target."""
    lines = []
    for system in dict.fromkeys(name for each in results.values() for name in each):
        measured = {measure for each in results.values() for measure in each.get(system, {})}
        rows = [[system, *(f"{size:,} backends" for size in results)]]
        for measure, heading in ROWS:
            if measure in measured:
                rows.append(
                    [heading, *(_cell(each.get(system, {}).get(measure, ())) for each in results.values())]
                )
        lines += [*aligned(rows), ""]
    rows = [[f"target at {FLEET:,} backends", "measured", "limit", ""]]
    for what, value, limit, met in targets(results, decisions):
        rows.append([what, with_spread(value, ()), limit, WORDS[met]])
    return "\n".join([*lines, *aligned(rows)])


def _cell(values: Sequence[float]) -> str:
    return with_spread(statistics.median(values) if values else None, values)
