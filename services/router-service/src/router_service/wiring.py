"""Builds adapters and settings from a configuration. Opens nothing: `app` opens them in order."""

import contextlib
import importlib
import os
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from platform_contracts.yaml_document import Problem
from router_service.affinity.memory_store import MemoryStore
from router_service.affinity.sessions import Sessions
from router_service.config import BadConfig, Configuration, RouterConfig, redis_login
from router_service.config.model import PoolSection
from router_service.discovery.dns import DnsDiscovery
from router_service.discovery.static import StaticDiscovery
from router_service.health.loop import Pace
from router_service.pipeline.line import Bounds
from router_service.pipeline.settings import Settings
from router_service.pipeline.start import Hold
from router_service.ports import AffinityStore, Discovery
from router_service.resilience.breaker import BreakerSettings
from router_service.routing.session_sources import SessionSources
from router_service.telemetry.gauges import RolloutView
from router_service.telemetry.otlp_json import OtlpJsonExporter

if TYPE_CHECKING:
    from router_service.accounting.settlements import Settlements
    from router_service.affinity.redis_hints import RedisHints


def bounds(values: Configuration) -> Bounds:
    """Return the limits of the fleet."""
    breaker = values.breaker
    return Bounds(
        max_in_flight_per_backend=values.limits.max_in_flight_per_backend,
        queue_size=values.limits.queue_size,
        queue_seconds=values.limits.queue_seconds,
        client_share=values.limits.client_share,
        class_shares={name: one.share for name, one in values.classes.items() if one.share > 0}
        if values.classes
        else None,
        lend_after_seconds=values.limits.lend_after_seconds,
        holds={
            name: Hold(
                pool.when_none_ready.hold_seconds,
                pool.when_none_ready.slots,
                pool.when_none_ready.comment_seconds,
                tuple(values.routing.fallback.get(name, ())),
            )
            for name, pool in values.pools.items()
            if pool.when_none_ready is not None
        },
        breaker=BreakerSettings(breaker.failures, breaker.open_seconds, breaker.slow_start_seconds),
        retry_ratio=values.retries.budget_ratio,
        retry_minimum=values.retries.budget_min,
    )


def probe_pace(values: Configuration) -> Pace:
    """Return how often backends are probed."""
    health = values.health
    return Pace(health.interval_seconds, health.failures, health.max_in_flight)


def session_sources(values: Configuration) -> SessionSources:
    """Return the sources of session names: the configured header first, then the additional ones."""
    affinity = values.affinity
    return SessionSources.of([f"header:{affinity.header}", *affinity.sources])


def replica_name(port: int) -> str:
    """Return the name of this router among its replicas: `ROUTER_REPLICA`, else the host's name and ``port``."""
    return os.environ.get("ROUTER_REPLICA") or f"{socket.gethostname()}:{port}"


def pipeline_settings(config: RouterConfig, replica: str = "") -> Settings:
    """Return the pipeline's settings from a configuration.

    Raises:
        BadConfig: the sampling ratio in the environment is not a number.
    """
    values = config.values
    return Settings(
        policy=config.policy,
        max_attempts=values.retries.max_attempts,
        reject=frozenset(values.retries.on_status),
        queue_seconds=values.limits.queue_seconds,
        sessions=session_sources(values),
        max_body_bytes=values.server.max_body_bytes,
        trace_ratio=_variable("OTEL_TRACES_SAMPLER_ARG", 0.01, 1.0),
        replica=replica.encode("latin-1", "replace"),
        rules=[rule.model_dump(mode="json", exclude_defaults=True) for rule in config.rules],
        routing=_routing(values),
        shadow_slots=values.limits.shadow_slots,
        shadow_body_bytes=values.limits.shadow_body_bytes,
    )


def _routing(values: Configuration) -> dict[str, Any]:
    """Return the sections that decide where a request goes, without addresses of backends and stores."""
    shown: dict[str, Any] = {
        "pools": {"__all__": {"policy", "models", "aliases", "engine_knows_aliases"}},
        "routing": {"default_pool", "fallback"},
        "timeouts": True,
        "affinity": {"enabled"},
        "breaker": {"max_ejected_ratio"},
        "clients": True,
        "classes": True,
    }
    return values.model_dump(mode="json", include=shown, exclude_none=True)


def rollout_views(config: RouterConfig) -> list[RolloutView]:
    """Return every rollout of the rules, as the weights file has it."""
    found = []
    for rule in config.rules:
        if rule.rollout is None:
            continue
        share = config.shares.get(rule.name)
        if share is None:
            found.append(RolloutView(rule.name, rule.rollout.to, 0.0, "not_started", None))
            continue
        decided = None
        if share.decided is not None:
            at = datetime.fromisoformat(share.decided.at).timestamp()
            decided = (at, share.decided.action, share.decided.reason)
        found.append(RolloutView(rule.name, share.to, share.percent, share.state, decided))
    return found


def discovery(pool: str, section: PoolSection, report: Callable[[str | None], None]) -> Discovery:
    """Return the discovery that lists the backends of a pool."""
    if section.backends is not None:
        return StaticDiscovery(section.backends)
    assert section.discover is not None
    if section.discover.dns is not None:
        return DnsDiscovery(pool, section.discover, report)
    module = importlib.import_module("router_service.discovery.endpoint_slices")
    slices: Discovery = module.EndpointSlicesDiscovery(pool, section.discover, report)
    return slices


def redis_hints(values: Configuration, path: Path) -> "RedisHints | None":
    """Return the hints between replicas, or None without the Redis that replicas share."""
    if values.redis is None:
        return None
    # Imported here and below because the Redis client takes 6.5 MB, which a router without Redis can save.
    from router_service.affinity.redis_hints import RedisHints

    return RedisHints(redis_login(path, values.redis), values.redis.timeout_seconds, perf_counter)


def affinity_sessions(values: Configuration, path: Path, warn: Callable[[str], None]) -> Sessions:
    """Return the pins of sessions and stored responses, in Redis if one is configured, else in memory."""
    store: AffinityStore
    if values.redis is None:
        store = MemoryStore(perf_counter)
    else:
        from router_service.affinity.redis_store import RedisStore

        store = RedisStore(redis_login(path, values.redis), values.redis.timeout_seconds)
    return Sessions(store, values.affinity.ttl_seconds, perf_counter, warn)


def settlements(values: Configuration) -> "Settlements | None":
    """Return who settles the budgets of cut-off answers, None without a rate limit service."""
    if values.budgets is None:
        return None
    # gRPC takes 22 MB.
    from router_service.accounting.settlements import Settlements

    return Settlements(values.budgets.address, values.budgets.timeout_seconds)


def span_exporter(values: Configuration) -> OtlpJsonExporter | None:
    """Return an OTLP/HTTP exporter if an endpoint is configured, or named by OpenTelemetry's own variable."""
    endpoint = values.telemetry.otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint:
        return None
    return OtlpJsonExporter(endpoint)


def keep_alive_seconds() -> float:
    """Return how long idle connections to engines are kept: less than vLLM's keep-alive (5 s, or the value of its
    variable).
    """
    return max(1.0, _variable("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", 5.0, 86400.0) * 5 / 6 - 0.16)


def _variable(name: str, default: float, most: float) -> float:
    """Return a number from 0 to ``most`` from the environment.

    Raises:
        BadConfig: the value is not such a number.
    """
    text = os.environ.get(name)
    if not text:
        return default
    with contextlib.suppress(ValueError):
        if 0.0 <= (value := float(text)) <= most:
            return value
    said = f'{name}: "{text[:60]}" is not a number from 0 to {most:g}; correct it or unset it'
    raise BadConfig([Problem("environment", 1, 1, "", said)])
