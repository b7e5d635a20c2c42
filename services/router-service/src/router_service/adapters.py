"""Adapters and settings as a configuration asks for them. Opens nothing: `app` does, in order."""

import contextlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from router_service.affinity.memory_store import MemoryStore
from router_service.affinity.sessions import Sessions
from router_service.config import BadConfig, Configuration, RouterConfig, redis_password
from router_service.config.document import Problem
from router_service.config.model import PoolSection
from router_service.discovery.dns import DnsDiscovery
from router_service.discovery.static import StaticDiscovery
from router_service.pipeline.fleet import Bounds
from router_service.pipeline.settings import Settings
from router_service.ports import AffinityStore, Discovery
from router_service.resilience.breaker import BreakerSettings
from router_service.telemetry.otlp_json import OtlpJsonExporter

if TYPE_CHECKING:
    from router_service.affinity.redis_hints import RedisHints


def bounds(values: Configuration) -> Bounds:
    """What limits the fleet."""
    breaker = values.breaker
    return Bounds(
        max_in_flight_per_backend=values.limits.max_in_flight_per_backend,
        queue_size=values.limits.queue_size,
        queue_seconds=values.limits.queue_seconds,
        breaker=BreakerSettings(breaker.failures, breaker.open_seconds, breaker.slow_start_seconds),
        retry_ratio=values.retries.budget_ratio,
        retry_minimum=values.retries.budget_min,
    )


def pipeline_settings(config: RouterConfig) -> Settings:
    """What requests go by.

    Raises:
        BadConfig: the sampling ratio in the environment is none.
    """
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


def discovery(pool: str, section: PoolSection, report: Callable[[str | None], None]) -> Discovery:
    """Who lists the backends of a pool."""
    if section.backends is not None:
        return StaticDiscovery(section.backends)
    assert section.discover is not None
    if section.discover.dns is not None:
        return DnsDiscovery(pool, section.discover, report)
    module = importlib.import_module("router_service.discovery.endpoint_slices")
    slices: Discovery = module.EndpointSlicesDiscovery(pool, section.discover, report)
    return slices


def redis_hints(values: Configuration, path: Path) -> "RedisHints | None":
    """Hints are for several replicas, which share a Redis."""
    if values.redis is None:
        return None
    # Here and below: a router without Redis need not hold its client, which takes 6.5 MB.
    from router_service.affinity.redis_hints import RedisHints

    return RedisHints(
        values.redis.url, values.redis.timeout_seconds, redis_password(path, values), perf_counter
    )


def affinity_sessions(values: Configuration, path: Path, warn: Callable[[str], None]) -> Sessions | None:
    """Session pins, in Redis where one is configured, else in memory; None: affinity is off."""
    if not values.affinity.enabled:
        return None
    store: AffinityStore
    if values.redis is None:
        store = MemoryStore(perf_counter)
    else:
        from router_service.affinity.redis_store import RedisStore

        store = RedisStore(values.redis.url, values.redis.timeout_seconds, redis_password(path, values))
    return Sessions(store, values.affinity.ttl_seconds, perf_counter, warn)


def span_exporter(values: Configuration) -> OtlpJsonExporter | None:
    """OTLP over HTTP when an endpoint is configured (or named by OpenTelemetry's own variable)."""
    endpoint = values.telemetry.otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint:
        return None
    return OtlpJsonExporter(endpoint)


def keep_alive_seconds() -> float:
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
