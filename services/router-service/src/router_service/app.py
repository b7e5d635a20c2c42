"""One router: opens its adapters in order, closes them in reverse, and applies new configurations while it runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from random import Random
from time import perf_counter, time
from typing import Any

from fastapi import APIRouter, FastAPI

from router_service.accounting.batch import Batch
from router_service.accounting.cache_homes import CacheHomes
from router_service.accounting.completion import Completion, event_line, running_record
from router_service.accounting.shadow_completion import ShadowCompletion
from router_service.api.endpoint import InferenceEndpoint
from router_service.api.pages import Readiness, make_pages
from router_service.api.record_pages import Lookup
from router_service.api.web import make_web
from router_service.backend_watch import BackendWatch
from router_service.background import keep_running
from router_service.change_watch import ChangeTimes, ChangeWatch, RuleHashes
from router_service.config import RouterConfig
from router_service.health.http_probe import HttpProbe
from router_service.health.loop import HealthLoop
from router_service.health.model_cards import ModelCards
from router_service.peer_routers import PeerRouters
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.pipeline import Pipeline
from router_service.records.ring import Ring
from router_service.reload import Reloader
from router_service.telemetry import names
from router_service.telemetry.aggregates import Counter, Gauge, Histogram
from router_service.telemetry.gauges import ClassCounts, HoldCounts, Sources, gauges
from router_service.telemetry.log_lines import LineWriter
from router_service.telemetry.registry import Exposition
from router_service.telemetry.request_metrics import RequestMetrics
from router_service.telemetry.spans import SpanSink
from router_service.upstream.pool import UpstreamPool
from router_service.wiring import (
    affinity_sessions,
    bounds,
    keep_alive_seconds,
    pipeline_settings,
    probe_pace,
    redis_hints,
    replica_name,
    rollout_views,
    settlements,
    span_exporter,
)

GONE_SECONDS = 3600.0
"""How long after a backend's removal its in-flight requests may still finish."""

FIRST_LOOK_SECONDS = 2.0
"""How long the listener stays closed at most, until the backends are listed and probed once.

A restarted router keeps its address, so the edge sends requests at once. Without backends the response would be 503,
while the edge retries a refused connection at another router.
"""

TICK_SECONDS = 0.25
"""Interval of breaker updates for waiting requests, and of event loop lag measurements."""


class Router:
    """All parts between the configuration file and the FastAPI application."""

    def __init__(self, path: Path, config: RouterConfig, log_fd: int = 1, replica: str = "") -> None:
        self._replica = replica or replica_name(config.values.server.port)
        self.reloader = Reloader(path, config, self._reconfigure, self.log)
        self.readiness = Readiness()
        self.metrics = RequestMetrics()
        self.lines = LineWriter(log_fd)
        values = config.values
        self.upstream = UpstreamPool(keep_alive_seconds())
        self.ring = Ring(values.decisions.ring, values.decisions.ring_bytes)
        self.fleet = Fleet(
            list(values.pools), bounds(values), perf_counter, self._forget, on_trouble=self._trouble
        )
        self.exporter = span_exporter(values)
        self.spans = SpanSink(self.exporter)
        self.sessions = affinity_sessions(values, path, self._warn)
        self.hints = redis_hints(values, path)
        self.hinted = Counter(names.HINTS)
        self.settlements = settlements(values)
        self.changes = Counter(names.CHANGES)
        self._change_times = ChangeTimes(time)
        self._rule_hashes = RuleHashes()
        self._watch = ChangeWatch(perf_counter)
        self.completion = Completion(
            self.ring,
            self.metrics,
            self.lines.write,
            self.spans,
            values.telemetry.slow_first_token_seconds,
            CacheHomes(values.affinity.ttl_seconds),
            self.settlements,
        )
        self.finished = Batch(self.completion)
        self.pipeline = Pipeline(
            pipeline_settings(config, self._replica),
            self.fleet,
            self.upstream,
            self.sessions,
            self.finished,
            self.metrics.observe_decide,
            Random(),
        )
        self.shadows = ShadowCompletion(self.lines.write, values.affinity.ttl_seconds)
        self.pipeline.shadows.report_to(self.shadows, self.shadows.metrics.left_out)
        # Separate connections: a probe must not take a connection that a request could use.
        self.probe = HttpProbe(UpstreamPool(keep_alive_seconds()), values.health.timeout_seconds)
        self.health = HealthLoop(
            self.fleet,
            self.probe,
            probe_pace(values),
            lambda url: self.upstream.round_trip_seconds(url, self.config.values.health.timeout_seconds),
        )
        self.backends = BackendWatch(self.fleet, self.health.hurry, self.log)
        self._gone: dict[str, tuple[str, float]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.exposition = Exposition(self._metrics())
        self.peers = PeerRouters(lambda: self.config.values.peers)
        self.cards = ModelCards(self._usable_backends, values.health.timeout_seconds)
        self.pipeline.use_cards(self.cards.card)
        self.web: FastAPI = make_web(self._pages(), self._lifespan)
        self.asgi = InferenceEndpoint(self.web, self.pipeline)

    def _pages(self) -> APIRouter:
        """Return the routes besides the inference paths."""
        return make_pages(
            lambda: self.pipeline,
            lambda: self.fleet,
            self._ring_now,
            Lookup(self._record_here, self.peers.find),
            self._exposition_now,
            self.readiness,
            self.cards.card,
        )

    @property
    def config(self) -> RouterConfig:
        """The configuration in use."""
        return self.reloader.config

    def _metrics(self) -> list[Counter | Histogram | Gauge]:
        settled = [] if self.settlements is None else [self.settlements.counter]
        counted = [*self.metrics.everything(), *self.shadows.metrics.everything(), self.hinted, self.changes]
        return [*counted, *settled, *gauges(self._sources())]

    def _sources(self) -> Sources:
        """Return the functions from which scraped metrics read their values."""
        fleet = self.fleet
        sessions = self.sessions
        exporter = self.exporter
        return Sources(
            backends=lambda: ((member.view, member.endpoint.url) for member in fleet.members()),
            waiting=lambda: {pool: len(line.queue) - fleet.held(pool) for pool, line in fleet.lines.items()},
            holds=lambda: [
                HoldCounts(pool, fleet.held(pool), line.start.results, line.start.seconds)
                for pool, line in fleet.lines.items()
                if line.start.hold is not None
            ],
            classes=lambda: [
                ClassCounts(pool, *counts)
                for pool, line in fleet.lines.items()
                for counts in line.class_counts()
            ],
            usable=lambda: {pool: fleet.usable(pool) for pool in fleet.pools},
            retry_budget=lambda: fleet.budget.remaining,
            segments=self.upstream.segments,
            connections=self.upstream.open_connections,
            listed=lambda: self.backends.listed,
            config_hash=lambda: self.config.hash,
            reload_ok=lambda: self.reloader.ok,
            affinity_up=lambda: sessions.up,
            spans_dropped=lambda: 0 if exporter is None else exporter.failed,
            log_dropped=lambda: self.lines.dropped,
            change_times=self._change_times.recent,
            rule_hashes=lambda: self._rule_hashes.of(self.config),
            rollouts=lambda: rollout_views(self.config),
        )

    def log(self, level: str, event: str, **values: object) -> None:
        """Write one log line about the router itself, and count the event `change`."""
        if event == "change":
            self.changes.add((str(values["kind"]),))
            self._change_times.note(values)
        self.lines.write(event_line(level, event, values))

    def _ring_now(self) -> Ring:
        self.finished.flush()
        return self.ring

    def _record_here(self, request_id: str) -> dict[str, Any] | None:
        """Return the record of a request that this router handled or is handling, with what it waits for."""
        record = self._ring_now().get(request_id) or self.shadows.ring.get(request_id)
        job = self.pipeline.running.get(request_id)
        return record if job is None else running_record(job, *self.pipeline.waits_for(job))

    def _usable_backends(self) -> list[tuple[str, str]]:
        """Return pool and URL of every backend that can accept requests."""
        return [(m.view.pool, m.view.url) for m in self.fleet.members() if m.view.unusable is None]

    def _exposition_now(self) -> Exposition:
        self.finished.flush()
        self._forget_again()
        return self.exposition

    # -- life ------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _lifespan(self, web: FastAPI) -> AsyncIterator[None]:
        self.backends.reconfigure(self.config.values.pools)
        await asyncio.sleep(0)  # Lets backend watches list configured backends before the first probe.
        first_look_ends = asyncio.get_running_loop().time() + FIRST_LOOK_SECONDS
        await _at_most_until(first_look_ends, self.backends.reported())
        background = {
            "health checks": self.health.run,
            "model cards": self.cards.run,
            "clock": self._tick,
            "configuration watch": self.reloader.watch,
        }
        hints = self.hints
        if hints is not None:
            background["hints"] = lambda: hints.run(self._heard)
        self._tasks = [
            asyncio.create_task(keep_running(name, run, self.log)) for name, run in background.items()
        ]
        self._tasks.append(asyncio.create_task(self._after_first_sweep()))
        await _at_most_until(first_look_ends, self.health.swept.wait())
        self.log("info", "started", config_hash=self.config.hash)
        self.reloader.warn_of_former_keys(self.config)
        try:
            yield
        finally:
            # Stop the tasks that decide first, then what decisions need, then the log.
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.backends.close()
            await self.probe.close()
            await self.peers.close()
            if self.hints is not None:
                await self.hints.close()
            await self.sessions.close()
            self.pipeline.shadows.stop()
            await self.upstream.close()
            self.finished.flush()
            await asyncio.to_thread(self.spans.close)
            if self.settlements is not None:
                await asyncio.to_thread(self.settlements.close)
            self.log("info", "stopped")
            self.lines.close()

    async def _after_first_sweep(self) -> None:
        await self.health.swept.wait()
        self.readiness.swept = True
        self._update_usable()

    async def _tick(self) -> None:
        """Measure how late timers run, and update breakers and queues when there is no traffic."""
        while True:
            began = perf_counter()
            await asyncio.sleep(TICK_SECONDS)
            now = perf_counter()
            self.metrics.observe_lag(max(0.0, now - began - TICK_SECONDS))
            self.fleet.refresh(now)
            self.pipeline.leave_lost_backends()
            for pool in self.fleet.pools:
                self.fleet.wake(pool)
            self._update_usable()
            self.sessions.try_again()
            for change in self._watch.look(
                (member.view for member in self.fleet.members()), self.sessions.up
            ):
                self.log("info", "change", **change)

    def _update_usable(self) -> None:
        self.readiness.usable = {pool: self.fleet.usable(pool) for pool in self.fleet.pools}

    # -- configuration ---------------------------------------------------------------------------

    def _reconfigure(self, config: RouterConfig) -> None:
        """Pass a new configuration to every part; settings that need a restart stay unchanged."""
        values = config.values
        self.pipeline.reconfigure(pipeline_settings(config, self._replica))
        self.fleet.reconfigure(list(values.pools), bounds(values))
        self.ring.reconfigure(values.decisions.ring, values.decisions.ring_bytes)
        self.completion.reconfigure(values.telemetry.slow_first_token_seconds, values.affinity.ttl_seconds)
        self.shadows.reconfigure(values.affinity.ttl_seconds)
        self.health.reconfigure(probe_pace(values))
        self.probe.timeout_seconds = values.health.timeout_seconds
        self.sessions.reconfigure(values.affinity.ttl_seconds)
        self.backends.reconfigure(values.pools)
        self.health.hurry()

    def _forget(self, backend: str, url: str) -> None:
        self._gone[backend] = (url, perf_counter() + GONE_SECONDS)
        self.upstream.forget(url)
        self.metrics.forget(backend)
        self.sessions.forget(backend)

    def _forget_again(self) -> None:
        """Remove a removed backend's series and address again, because a request that ended later has recreated them."""
        if not self._gone:
            return
        here = {member.view.name for member in self.fleet.members()}
        urls = {member.endpoint.url for member in self.fleet.members()}
        now = perf_counter()
        for backend, (url, until) in list(self._gone.items()):
            if backend in here or now > until:
                del self._gone[backend]
                continue
            if url not in urls:
                self.upstream.forget(url)
        self.metrics.forget(*self._gone)

    def _trouble(self, pool: str, backend: str) -> None:
        """Probe a backend that became unusable here at once, and send a hint to the other replicas."""
        self.pipeline.leave_lost_backends()
        self.health.look(pool, backend)
        if self.hints is not None and self.hints.tell(pool, backend):
            self.hinted.add(("told",))

    def _heard(self, pool: str, backend: str) -> None:
        self.hinted.add(("heard",))
        self.health.look(pool, backend)

    def _warn(self, detail: str) -> None:
        self.log("warning", "degraded", detail=detail)


async def _at_most_until(deadline: float, waiting: Coroutine[Any, Any, object]) -> None:
    """Await ``waiting`` until ``deadline`` on the loop's clock, then give it up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await waiting
