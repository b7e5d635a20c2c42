"""Metrics that are read at scrape time. Must not depend on the owners of the state that it reads."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from router_service.telemetry import names
from router_service.telemetry.aggregates import Gauge, Labels


class View(Protocol):
    """The state of one backend."""

    @property
    def name(self) -> str: ...
    @property
    def pool(self) -> str: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def unusable(self) -> str | None: ...
    @property
    def breaker_open(self) -> bool: ...
    @property
    def round_trip_seconds(self) -> float | None: ...


class Segments(Protocol):
    """TCP segments of one backend's connections since the router started."""

    @property
    def all(self) -> int: ...
    @property
    def repaired(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """The requests of one class in one pool. ``started`` counts since the router started."""

    pool: str
    class_name: str
    waiting: int
    running: int
    started: int


@dataclass(frozen=True, slots=True)
class HoldCounts:
    """The requests of one pool that wait for a start, how earlier waits ended, and how long the last start took."""

    pool: str
    held: int
    ends: Mapping[str, int]
    start_seconds: float | None


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A rollout as the weights file has it. ``decided`` is the time (epoch seconds), action and reason of the last
    decision.
    """

    rule: str
    pool: str
    percent: float
    state: str
    decided: tuple[float, str, str] | None


@dataclass(frozen=True, slots=True)
class Sources:
    """Functions that return the current values, by metric. All are called once per scrape."""

    backends: Callable[[], Iterable[tuple[View, str]]]
    """Every backend with its URL."""
    waiting: Callable[[], Mapping[str, int]]
    holds: Callable[[], Iterable[HoldCounts]]
    classes: Callable[[], Iterable[ClassCounts]]
    usable: Callable[[], Mapping[str, int]]
    retry_budget: Callable[[], int]
    segments: Callable[[], Mapping[str, Segments]]
    """By backend URL."""
    connections: Callable[[], int]
    listed: Callable[[], Mapping[str, bool]]
    config_hash: Callable[[], str]
    reload_ok: Callable[[], bool]
    affinity_up: Callable[[], bool]
    spans_dropped: Callable[[], int]
    log_dropped: Callable[[], int]
    change_times: Callable[[], Iterable[tuple[Labels, float]]]
    """Time of each recent change, by kind, pool, backend and value after it."""
    rule_hashes: Callable[[], Iterable[Labels]]
    """Each rule in use, with its hash."""
    rollouts: Callable[[], Iterable[RolloutView]]


def gauges(sources: Sources) -> Iterator[Gauge]:
    """Yield every metric that is read from state instead of counted per request."""

    def one(value: Callable[[], float]) -> Callable[[], list[tuple[Labels, float]]]:
        return lambda: [((), float(value()))]

    def by_pool(values: Callable[[], Mapping[str, float]]) -> Callable[[], list[tuple[Labels, float]]]:
        return lambda: [((pool,), value) for pool, value in values().items()]

    def by_class(value: Callable[[ClassCounts], int]) -> Callable[[], list[tuple[Labels, float]]]:
        return lambda: [((one.pool, one.class_name), value(one)) for one in sources.classes()]

    def in_flight() -> list[tuple[Labels, float]]:
        return [((view.name,), view.in_flight) for view, _ in sources.backends()]

    yield Gauge(names.IN_FLIGHT, in_flight)
    yield Gauge(names.QUEUE_LENGTH, by_pool(sources.waiting))
    yield from _of_holds(sources)
    yield Gauge(names.CLASS_WAITING, by_class(lambda counts: counts.waiting))
    yield Gauge(names.CLASS_RUNNING, by_class(lambda counts: counts.running))
    yield Gauge(names.CLASS_STARTED, by_class(lambda counts: counts.started))
    yield Gauge(names.USABLE_BACKENDS, by_pool(sources.usable))
    yield from _of_few_backends(sources)
    yield Gauge(names.SEGMENTS, _segments(sources))
    yield Gauge(names.RETRY_BUDGET, one(sources.retry_budget))
    yield Gauge(names.UPSTREAM_CONNECTIONS, one(sources.connections))
    yield Gauge(names.DISCOVERY_UP, by_pool(sources.listed))
    yield Gauge(names.TIME, one(time.time))
    yield Gauge(names.CONFIG_INFO, lambda: [((sources.config_hash(),), 1.0)])
    yield Gauge(names.CHANGE_TIME, sources.change_times)
    yield Gauge(names.RULE_INFO, lambda: [(rule, 1.0) for rule in sources.rule_hashes()])
    yield from _of_rollouts(sources)
    yield Gauge(names.CONFIG_RELOADED, one(sources.reload_ok))
    yield Gauge(names.AFFINITY_UP, one(sources.affinity_up))
    yield Gauge(names.SPANS_DROPPED, one(sources.spans_dropped))
    yield Gauge(names.LOG_DROPPED, one(sources.log_dropped))


def _of_holds(sources: Sources) -> Iterator[Gauge]:
    """Yield the metrics of pools whose requests wait for the start of an engine."""
    yield Gauge(names.HELD, lambda: [((one.pool,), one.held) for one in sources.holds()])
    yield Gauge(
        names.HOLDS,
        lambda: [((one.pool, end), count) for one in sources.holds() for end, count in one.ends.items()],
    )
    yield Gauge(
        names.START_SECONDS,
        lambda: [((one.pool,), s) for one in sources.holds() if (s := one.start_seconds) is not None],
    )


def _of_rollouts(sources: Sources) -> Iterator[Gauge]:
    """Yield the metrics of rules with a rollout."""
    yield Gauge(
        names.ROLLOUT_PERCENT, lambda: [((one.rule, one.pool), one.percent) for one in sources.rollouts()]
    )
    yield Gauge(names.ROLLOUT_STATE, lambda: [((one.rule, one.state), 1.0) for one in sources.rollouts()])
    yield Gauge(
        names.ROLLOUT_DECIDED,
        lambda: [((one.rule, *d[1:]), d[0]) for one in sources.rollouts() if (d := one.decided) is not None],
    )


def _of_few_backends(sources: Sources) -> Iterator[Gauge]:
    """Yield the metrics that have series only of backends in trouble, so that a fleet does not multiply them."""

    def rejected() -> Iterator[tuple[Labels, float]]:
        for view, _ in sources.backends():
            if view.unusable is not None:
                yield (view.pool, view.name, view.unusable), 1.0
            elif view.breaker_open:
                yield (view.pool, view.name, "breaker_open"), 1.0

    def round_trips() -> Iterator[tuple[Labels, float]]:
        for view, _ in sources.backends():
            seconds = view.round_trip_seconds
            if seconds is not None and seconds >= names.FAR_SECONDS:
                yield (view.pool, view.name), seconds

    def repaired() -> Iterator[tuple[Labels, float]]:
        carried = sources.segments()
        for view, url in sources.backends():
            if (counted := carried.get(url)) is not None and counted.repaired:
                yield (view.pool, view.name), counted.repaired

    yield Gauge(names.REJECTED, rejected)
    yield Gauge(names.ROUND_TRIP, round_trips)
    yield Gauge(names.REPAIRED, repaired)


def _segments(sources: Sources) -> Callable[[], Iterable[tuple[Labels, float]]]:
    """Return a function that returns the segments of each pool: totals that stay when a backend leaves."""
    pools: dict[Labels, float] = {}
    before: dict[str, int] = {}

    def read() -> Iterable[tuple[Labels, float]]:
        nonlocal before
        carried = sources.segments()
        now: dict[str, int] = {}
        for view, url in sources.backends():
            if (counted := carried.get(url)) is not None and url not in now:
                now[url] = counted.all
                growth = max(0, counted.all - before.get(url, 0))
                pools[view.pool,] = pools.get((view.pool,), 0.0) + growth
        before = now
        return pools.items()

    return read
