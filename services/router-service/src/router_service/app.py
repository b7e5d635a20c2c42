"""Builds the adapters, opens them in order, closes them in reverse. The only place that knows them all."""

import asyncio
import contextlib
import importlib
import os
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from operator import attrgetter
from pathlib import Path
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from watchfiles import awatch

from router_service.affinity.memory_store import MemoryStore
from router_service.affinity.sessions import Sessions
from router_service.api.endpoint import InferenceEndpoint
from router_service.api.pages import Readiness, make_pages
from router_service.api.web import make_web
from router_service.config import BadConfig, Configuration, RouterConfig, load, redis_password
from router_service.config.document import Problem
from router_service.config.model import PoolSection
from router_service.discovery.dns import DnsDiscovery
from router_service.discovery.static import StaticDiscovery
from router_service.health.http_probe import HttpProbe
from router_service.health.loop import HealthLoop
from router_service.pipeline.batch import Batch
from router_service.pipeline.completion import Completion, event_line
from router_service.pipeline.fleet import Bounds, Fleet
from router_service.pipeline.pipeline import Pipeline
from router_service.pipeline.settings import Settings
from router_service.ports import AffinityStore, Discovery
from router_service.records.ring import Ring
from router_service.resilience.breaker import BreakerSettings
from router_service.telemetry import names
from router_service.telemetry.aggregates import Counter, Gauge, Histogram
from router_service.telemetry.log_lines import LineWriter
from router_service.telemetry.otlp_json import OtlpJsonExporter
from router_service.telemetry.registry import make_registry
from router_service.telemetry.request_metrics import RequestMetrics
from router_service.telemetry.spans import SpanSink
from router_service.upstream.pool import UpstreamPool

if TYPE_CHECKING:
    from router_service.affinity.redis_hints import RedisHints

_AT_START = (
    *("server.host", "server.port", "redis", "affinity.enabled"),
    *("health.timeout_seconds", "telemetry.otlp_endpoint"),
)
"""What opens something: a reload says that a change of it waits for a restart."""

TICK_SECONDS = 0.25
"""How often breakers are looked at for requests that wait, and the event loop's lag is measured."""


class Router:
    """One router: everything between its configuration file and its FastAPI application."""

    def __init__(self, path: Path, config: RouterConfig, log_fd: int = 1) -> None:
        self.path = path
        self.config = config
        self.readiness = Readiness()
        self.reload_ok = True
        self.metrics = RequestMetrics()
        self.lines = LineWriter(log_fd)
        values = config.values
        self.upstream = UpstreamPool(_keep_alive_seconds())
        self.ring = Ring(values.decisions.ring)
        self.fleet = Fleet(
            list(values.pools), _bounds(values), perf_counter, self._forget, on_trouble=self._trouble
        )
        self._exporter = _exporter(values)
        self.spans = SpanSink(self._exporter)
        self.sessions = _sessions(values, path, self._warn)
        self.hints = _hints(values, path)
        self._hinted = Counter(names.HINTS)
        self.completion = Completion(
            self.ring,
            self.metrics,
            self.lines.write,
            self.spans,
            values.telemetry.slow_first_token_seconds,
        )
        self.finished = Batch(self.completion)
        self.pipeline = Pipeline(
            _settings(config),
            self.fleet,
            self.upstream,
            self.sessions,
            self.finished,
            self.metrics.observe_decide,
            Random(),
        )
        self.probe = HttpProbe(values.health.timeout_seconds)
        self.health = HealthLoop(
            self.fleet,
            self.probe,
            values.health.interval_seconds,
            values.health.failures,
            lambda url: self.upstream.round_trip_seconds(url, self.config.values.health.timeout_seconds),
        )
        self._discoveries: dict[str, tuple[PoolSection, asyncio.Task[None]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.registry = make_registry([*self.metrics.everything(), *self._gauges()])
        pages = make_pages(
            lambda: self.pipeline, lambda: self.fleet, self._ring_now, self._registry_now, self.readiness
        )
        self.web: FastAPI = make_web(pages, self._lifespan)
        self.asgi = InferenceEndpoint(self.web, self.pipeline)

    def log(self, level: str, event: str, **values: object) -> None:
        """One line about the router itself."""
        self.lines.write(event_line(level, event, values))

    def _ring_now(self) -> Ring:
        self.finished.flush()
        return self.ring

    def _registry_now(self) -> CollectorRegistry:
        self.finished.flush()
        return self.registry

    # -- life ------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _lifespan(self, web: FastAPI) -> AsyncIterator[None]:
        self._discover(self.config.values)
        await asyncio.sleep(0)  # configured backends are known before the first probe
        self._tasks = [
            asyncio.create_task(self._kept_running("health checks", self.health.run)),
            asyncio.create_task(self._kept_running("clock", self._tick)),
            asyncio.create_task(self._kept_running("configuration watch", self._watch_files)),
            asyncio.create_task(self._after_first_sweep()),
        ]
        hints = self.hints
        if hints is not None:
            hearing = self._kept_running("hints", lambda: hints.run(self._heard))
            self._tasks.append(asyncio.create_task(hearing))
        self.log("info", "started", config_hash=self.config.hash)
        try:
            yield
        finally:
            # In this order: nothing decides any more, then what decisions stood on, last the log.
            tasks = [*self._tasks, *(task for _, task in self._discoveries.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.probe.close()
            if self.hints is not None:
                await self.hints.close()
            if self.sessions is not None:
                await self.sessions.close()
            await self.upstream.close()
            self.finished.flush()
            await asyncio.to_thread(self.spans.close)
            self.log("info", "stopped")
            self.lines.close()

    async def _after_first_sweep(self) -> None:
        await self.health.swept.wait()
        self.readiness.swept = True
        self._update_usable()

    async def _tick(self) -> None:
        """Measures how late timers run, lets breakers and waiting lines move on without traffic."""
        while True:
            began = perf_counter()
            await asyncio.sleep(TICK_SECONDS)
            now = perf_counter()
            self.metrics.observe_lag(max(0.0, now - began - TICK_SECONDS))
            self.fleet.refresh(now)
            for pool in self.fleet.pools:
                self.fleet.wake(pool)
            self._update_usable()
            if self.sessions is not None:
                self.sessions.try_again()

    def _update_usable(self) -> None:
        self.readiness.usable = {pool: self.fleet.usable(pool) for pool in self.fleet.pools}

    # -- configuration ---------------------------------------------------------------------------

    async def _watch_files(self) -> None:
        # Folders, not files: a ConfigMap is swapped by a symbolic link beside them.
        while True:
            files = self.config.files
            wanted = {file.name for file in files} | {"..data"}
            async for _ in awatch(
                *{file.parent.absolute() for file in files},
                watch_filter=lambda change, path, wanted=wanted: Path(path).name in wanted,  # type: ignore[misc]
                step=50,
                debounce=200,
                recursive=False,
            ):
                self.reload()
                if self.config.files != files:
                    break

    def reload(self) -> None:
        """Use the files as they are now, or say why not and go on as before."""
        try:
            config = load(self.path)
        except BadConfig as error:
            if self.reload_ok:
                self.log("error", "config_refused", problems=str(error).splitlines())
            self.reload_ok = False
            return
        self.reload_ok = True
        if config.hash == self.config.hash:
            return
        before = self.config.values
        self.config = config
        values = config.values
        self.pipeline.settings = _settings(config)
        self.fleet.apply(list(values.pools), _bounds(values))
        self.ring.resize(values.decisions.ring)
        self.completion.slow_first_token_seconds = values.telemetry.slow_first_token_seconds
        self.health.reconfigure(values.health.interval_seconds, values.health.failures)
        if self.sessions is not None:
            self.sessions.reconfigure(values.affinity.ttl_seconds)
        self._discover(values)
        self.health.hurry()
        waits = [key for key in _AT_START if attrgetter(key)(values) != attrgetter(key)(before)]
        self.log(
            "warning" if waits else "info", "config_loaded", config_hash=config.hash, after_restart=waits
        )

    def _discover(self, values: Configuration) -> None:
        """Watch every pool's backends. A watch whose pool did not change goes on: what it knows stays known
        while nobody can be asked. Pools that are gone are no longer watched."""
        kept: dict[str, tuple[PoolSection, asyncio.Task[None]]] = {}
        for name, pool in values.pools.items():
            known = self._discoveries.pop(name, None)
            if known is not None and (known[0].backends, known[0].discover) == (pool.backends, pool.discover):
                kept[name] = known
                continue
            if known is not None:
                known[1].cancel()
            kept[name] = (pool, asyncio.create_task(self._follow(name, pool)))
        for _, task in self._discoveries.values():
            task.cancel()
        self._discoveries = kept

    async def _follow(self, name: str, pool: PoolSection) -> None:
        async def follow() -> None:
            discovery = self._discovery(name, pool)
            try:
                async for endpoints in discovery.watch():
                    self.fleet.set_endpoints(name, endpoints)
                    self.health.hurry()
            finally:
                await discovery.close()

        await self._kept_running(f"discovery of {name}", follow)

    async def _kept_running(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run for ever. A mistake in ``run`` is said and ends that round only: a router whose health checks or
        reloads have silently died is worse than one that complains every second."""
        while True:
            try:
                await run()
            except Exception as error:
                trace = "".join(traceback.format_exception(error))
                self.log("error", "task_failed", task=what, exception=repr(error), traceback=trace)
            await asyncio.sleep(1.0)

    def _discovery(self, name: str, pool: PoolSection) -> Discovery:
        if pool.backends is not None:
            return StaticDiscovery(pool.backends)
        assert pool.discover is not None
        if pool.discover.dns is not None:
            return DnsDiscovery(name, pool.discover, self._warn)
        module = importlib.import_module("router_service.discovery.endpoint_slices")
        slices: Discovery = module.EndpointSlicesDiscovery(name, pool.discover, self._warn)
        return slices

    def _forget(self, backend: str, url: str) -> None:
        self.upstream.forget(url)
        self.metrics.forget(backend)
        if self.sessions is not None:
            self.sessions.forget(backend)

    def _trouble(self, pool: str, backend: str) -> None:
        """A backend became unusable here: look again at once, and let the other replicas look."""
        self.health.look(pool, backend)
        if self.hints is not None and self.hints.tell(pool, backend):
            self._hinted.add(("told",))

    def _heard(self, pool: str, backend: str) -> None:
        self._hinted.add(("heard",))
        self.health.look(pool, backend)

    def _warn(self, detail: str) -> None:
        self.log("warning", "degraded", detail=detail)

    # -- gauges ----------------------------------------------------------------------------------

    def _gauges(self) -> Iterator[Gauge | Counter | Histogram]:
        fleet = self.fleet

        def one(value: Callable[[], float]) -> Callable[[], list[tuple[tuple[str, ...], float]]]:
            return lambda: [((), float(value()))]

        yield Gauge(names.IN_FLIGHT, lambda: [((m.view.name,), m.view.in_flight) for m in fleet.members()])
        yield Gauge(names.QUEUE_LENGTH, lambda: [((p,), len(line.queue)) for p, line in fleet.lines.items()])
        yield Gauge(names.USABLE_BACKENDS, lambda: [((pool,), fleet.usable(pool)) for pool in fleet.pools])
        yield Gauge(
            names.BREAKER_OPEN, lambda: [((m.view.name,), m.view.breaker_open) for m in fleet.members()]
        )
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
        yield self._hinted
        yield Gauge(names.RETRY_BUDGET, one(lambda: fleet.budget.remaining))
        yield Gauge(names.UPSTREAM_CONNECTIONS, one(self.upstream.open_connections))
        yield Gauge(names.CONFIG_INFO, lambda: [((self.config.hash,), 1.0)])
        yield Gauge(names.CONFIG_RELOADED, one(lambda: self.reload_ok))
        yield Gauge(names.AFFINITY_UP, one(lambda: self.sessions is None or self.sessions.up))
        yield Gauge(names.SPANS_DROPPED, one(lambda: 0 if self._exporter is None else self._exporter.failed))
        yield Gauge(names.LOG_DROPPED, one(lambda: self.lines.dropped))


def _bounds(values: Configuration) -> Bounds:
    breaker = values.breaker
    return Bounds(
        max_in_flight_per_backend=values.limits.max_in_flight_per_backend,
        queue_size=values.limits.queue_size,
        queue_seconds=values.limits.queue_seconds,
        breaker=BreakerSettings(breaker.failures, breaker.open_seconds, breaker.slow_start_seconds),
        retry_ratio=values.retries.budget_ratio,
        retry_minimum=values.retries.budget_min,
    )


def _settings(config: RouterConfig) -> Settings:
    values = config.values
    return Settings(
        policy=config.policy,
        max_attempts=values.retries.max_attempts,
        reject=frozenset(values.retries.on_status),
        queue_seconds=values.limits.queue_seconds,
        session_header=values.affinity.header.encode("ascii"),
        max_body_bytes=values.server.max_body_bytes,
        trace_ratio=_variable("OTEL_TRACES_SAMPLER_ARG", 0.01, 1.0),
    )


def _hints(values: Configuration, path: Path) -> "RedisHints | None":
    """Hints are for several replicas, which share a Redis."""
    if values.redis is None:
        return None
    # Here and below: a router without Redis need not hold its client, which takes 6.5 MB.
    from router_service.affinity.redis_hints import RedisHints

    return RedisHints(
        values.redis.url, values.redis.timeout_seconds, redis_password(path, values), perf_counter
    )


def _sessions(values: Configuration, path: Path, warn: Callable[[str], None]) -> Sessions | None:
    if not values.affinity.enabled:
        return None
    store: AffinityStore
    if values.redis is None:
        store = MemoryStore(perf_counter)
    else:
        from router_service.affinity.redis_store import RedisStore

        store = RedisStore(values.redis.url, values.redis.timeout_seconds, redis_password(path, values))
    return Sessions(store, values.affinity.ttl_seconds, perf_counter, warn)


def _exporter(values: Configuration) -> OtlpJsonExporter | None:
    """OTLP over HTTP when an endpoint is configured (or named by OpenTelemetry's own variable)."""
    endpoint = values.telemetry.otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint:
        return None
    return OtlpJsonExporter(endpoint)


def _keep_alive_seconds() -> float:
    """Idle connections to engines: below vLLM's 5 s, or as its variable says, always closing first."""
    return max(1.0, _variable("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", 5.0, 86400.0) * 5 / 6 - 0.16)


def _variable(name: str, default: float, most: float) -> float:
    """A number from 0 to ``most`` from the environment.

    Raises:
        BadConfig: it is none.
    """
    text = os.environ.get(name)
    if not text:
        return default
    with contextlib.suppress(ValueError):
        if 0.0 <= (value := float(text)) <= most:
            return value
    said = f'{name}: "{text[:60]}" is not a number from 0 to {most:g}; correct it or unset it'
    raise BadConfig([Problem("environment", 1, 1, "", said)])
