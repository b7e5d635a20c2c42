"""What is read when the router is scraped: the state of its fleet, its stores and itself."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from router_service.telemetry import names
from router_service.telemetry.aggregates import Counter, Gauge, Histogram, Labels

if TYPE_CHECKING:
    from router_service.app import Router


def gauges(router: "Router") -> Iterator[Gauge | Counter | Histogram]:
    """Every metric of a router that no single request moves."""
    fleet = router.fleet

    def one(value: Callable[[], float]) -> Callable[[], list[tuple[Labels, float]]]:
        return lambda: [((), float(value()))]

    def segments() -> Iterator[tuple[Labels, float]]:
        carried = router.upstream.segments()
        for member in fleet.members():
            if (counted := carried.get(member.endpoint.url)) is not None:
                yield (member.view.name, "true"), counted.repaired
                yield (member.view.name, "false"), max(0, counted.all - counted.repaired)

    yield Gauge(names.IN_FLIGHT, lambda: [((m.view.name,), m.view.in_flight) for m in fleet.members()])
    yield Gauge(names.QUEUE_LENGTH, lambda: [((p,), len(line.queue)) for p, line in fleet.lines.items()])
    yield Gauge(names.USABLE_BACKENDS, lambda: [((pool,), fleet.usable(pool)) for pool in fleet.pools])
    yield Gauge(names.BREAKER_OPEN, lambda: [((m.view.name,), m.view.breaker_open) for m in fleet.members()])
    yield Gauge(
        names.BACKEND_USABLE,
        lambda: [
            ((m.view.name,), m.view.unusable is None and not m.view.breaker_open) for m in fleet.members()
        ],
    )
    yield Gauge(
        names.ROUND_TRIP,
        lambda: [
            ((m.view.name,), seconds)
            for m in fleet.members()
            if (seconds := m.view.round_trip_seconds) is not None
        ],
    )
    yield Gauge(names.SEGMENTS, segments)
    yield router.hinted
    yield Gauge(names.RETRY_BUDGET, one(lambda: fleet.budget.remaining))
    yield Gauge(names.UPSTREAM_CONNECTIONS, one(router.upstream.open_connections))
    yield Gauge(names.DISCOVERY_UP, lambda: [((pool,), up) for pool, up in router.listed.items()])
    yield Gauge(names.TIME, one(time.time))
    yield Gauge(names.CONFIG_INFO, lambda: [((router.config.hash,), 1.0)])
    yield Gauge(names.CONFIG_RELOADED, one(lambda: router.reload_ok))
    yield Gauge(names.AFFINITY_UP, one(lambda: router.sessions is None or router.sessions.up))
    yield Gauge(names.SPANS_DROPPED, one(lambda: 0 if router.exporter is None else router.exporter.failed))
    yield Gauge(names.LOG_DROPPED, one(lambda: router.lines.dropped))
