"""One router: opens its adapters in order, closes them in reverse, and takes a new configuration while it runs."""

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from operator import attrgetter
from pathlib import Path
from random import Random
from time import perf_counter

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from watchfiles import awatch

from router_service.adapters import (
    affinity_sessions,
    bounds,
    discovery,
    keep_alive_seconds,
    pipeline_settings,
    redis_hints,
    span_exporter,
)
from router_service.api.endpoint import InferenceEndpoint
from router_service.api.pages import Readiness, make_pages
from router_service.api.web import make_web
from router_service.config import BadConfig, Configuration, RouterConfig, load
from router_service.config.model import PoolSection
from router_service.gauges import gauges
from router_service.health.http_probe import HttpProbe
from router_service.health.loop import HealthLoop
from router_service.pipeline.batch import Batch
from router_service.pipeline.completion import Completion, event_line
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.pipeline import Pipeline
from router_service.records.ring import Ring
from router_service.telemetry import names
from router_service.telemetry.aggregates import Counter
from router_service.telemetry.log_lines import LineWriter
from router_service.telemetry.registry import make_registry
from router_service.telemetry.request_metrics import RequestMetrics
from router_service.telemetry.spans import SpanSink
from router_service.upstream.pool import UpstreamPool

_AT_START = (
    *("server.host", "server.port", "redis", "affinity.enabled"),
    *("health.timeout_seconds", "telemetry.otlp_endpoint"),
)
"""What opens something: a reload says that a change of it waits for a restart."""

GONE_SECONDS = 3600.0
"""How long requests may still end that had a part at a backend that is gone."""

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
        self.upstream = UpstreamPool(keep_alive_seconds())
        self.ring = Ring(values.decisions.ring)
        self.fleet = Fleet(
            list(values.pools), bounds(values), perf_counter, self._forget, on_trouble=self._trouble
        )
        self.exporter = span_exporter(values)
        self.spans = SpanSink(self.exporter)
        self.sessions = affinity_sessions(values, path, self._warn)
        self.hints = redis_hints(values, path)
        self.hinted = Counter(names.HINTS)
        self.completion = Completion(
            self.ring,
            self.metrics,
            self.lines.write,
            self.spans,
            values.telemetry.slow_first_token_seconds,
        )
        self.finished = Batch(self.completion)
        self.pipeline = Pipeline(
            pipeline_settings(config),
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
        self.listed: dict[str, bool] = {}
        self._gone: dict[str, tuple[str, float]] = {}
        self._discoveries: dict[str, tuple[PoolSection, asyncio.Task[None]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.registry = make_registry([*self.metrics.everything(), *gauges(self)])
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
        self._forget_again()
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
        self.pipeline.settings = pipeline_settings(config)
        self.fleet.apply(list(values.pools), bounds(values))
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
                self.listed.pop(name, None)
            if pool.backends is not None:
                self.listed[name] = True  # by the configuration itself
            kept[name] = (pool, asyncio.create_task(self._follow(name, pool)))
        for name, (_, task) in self._discoveries.items():
            task.cancel()
            self.listed.pop(name, None)
        self._discoveries = kept

    async def _follow(self, name: str, pool: PoolSection) -> None:
        def report(problem: str | None) -> None:
            self.listed[name] = problem is None
            if problem is not None:
                self._warn(problem)

        async def follow() -> None:
            listing = discovery(name, pool, report)
            try:
                async for endpoints in listing.watch():
                    self.fleet.set_endpoints(name, endpoints)
                    self.health.hurry()
            finally:
                await listing.close()

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

    def _forget(self, backend: str, url: str) -> None:
        self._gone[backend] = (url, perf_counter() + GONE_SECONDS)
        self.upstream.forget(url)
        self.metrics.forget(backend)
        if self.sessions is not None:
            self.sessions.forget(backend)

    def _forget_again(self) -> None:
        """A request that ends after its backend went brings that one's series and address back."""
        here = {member.view.name for member in self.fleet.members()}
        urls = {member.endpoint.url for member in self.fleet.members()}
        now = perf_counter()
        for backend, (url, until) in list(self._gone.items()):
            if backend in here or now > until:
                del self._gone[backend]
                continue
            self.metrics.forget(backend)
            if url not in urls:
                self.upstream.forget(url)

    def _trouble(self, pool: str, backend: str) -> None:
        """A backend became unusable here: look again at once, and let the other replicas look."""
        self.health.look(pool, backend)
        if self.hints is not None and self.hints.tell(pool, backend):
            self.hinted.add(("told",))

    def _heard(self, pool: str, backend: str) -> None:
        self.hinted.add(("heard",))
        self.health.look(pool, backend)

    def _warn(self, detail: str) -> None:
        self.log("warning", "degraded", detail=detail)
