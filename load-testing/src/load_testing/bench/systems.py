"""The measured systems: our router as shipped and its peers, each with its quietest logging. Measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from load_testing.checkout import ROOT

OURS = "router-service"
OURS_WITH_REDIS = "router-service-redis"

TRACE_RATIO = 0.01
"""Share of requests whose spans are recorded; the router's default, given so that it is printed."""

SPAN_BATCH_MS = 500
"""Interval of span exports. The default, 5 s, is longer than a measurement, so the next one would include the cost."""


@dataclass(frozen=True, slots=True)
class System:
    """One program in front of the backends. ``ready_path`` answers 200 once it can be measured."""

    name: str
    command: tuple[str, ...]
    ready_path: str
    env: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> str:
        """Return the command without this machine's paths."""
        words = (*(f"{name}={value}" for name, value in self.env.items()), *self.command)
        return " ".join(word.replace(str(ROOT) + "/", "") for word in words)


@dataclass(frozen=True, slots=True)
class Services:
    """The services that a router uses besides its backends."""

    otlp_endpoint: str
    redis_port: int | None


def systems(
    port: int, metrics_port: int, backends: Sequence[int], services: Services, folder: Path
) -> list[System]:
    """Return every system, listening on ``port`` in front of ``backends``. Writes their files to ``folder``.

    The router with Redis is included if there is a Redis.
    """
    urls = [f"http://127.0.0.1:{backend}" for backend in backends]
    (folder / "rules.yaml").write_text(rules())
    envoy = folder / "envoy.yaml"
    envoy.write_text(envoy_config(port, backends))
    plain = router_config(port, urls, services.otlp_endpoint)
    ours = [_router(OURS, folder / "router.yaml", plain)]
    if services.redis_port is not None:
        with_redis = router_config(port, urls, services.otlp_endpoint, services.redis_port)
        ours.append(_router(OURS_WITH_REDIS, folder / "router-with-redis.yaml", with_redis))
    return [
        *ours,
        *peers(port, metrics_port, urls),
        System(
            "envoy",
            (
                str(ROOT / ".venv/bin/envoy"),
                "-c",
                str(envoy),
                "--concurrency",
                "1",
                "--log-level",
                "error",
                "--use-dynamic-base-id",
            ),
            "/v1/models",
        ),
    ]


def peers(port: int, metrics_port: int, urls: Sequence[str]) -> list[System]:
    """Return the other routers for LLM engines, listening on ``port`` in front of ``urls``."""
    bench = ROOT / ".venv-bench" / "bin"
    arguments = (
        "--worker-urls",
        *urls,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--policy",
        "round_robin",
    )
    arguments += ("--prometheus-port", str(metrics_port), "--log-level", "error")
    return [
        System("vllm-router", (str(bench / "vllm-router"), *arguments), "/health"),
        System("sglang-router", (str(bench / "sglang-router"), "launch", *arguments), "/health"),
    ]


def _router(name: str, config: Path, text: str) -> System:
    config.write_text(text)
    env = {"OTEL_TRACES_SAMPLER_ARG": str(TRACE_RATIO), "OTEL_BSP_SCHEDULE_DELAY": str(SPAN_BATCH_MS)}
    command = (str(ROOT / ".venv/bin/router-service"), "serve", "--config", str(config))
    return System(name, command, "/readyz", env)


def router_config(
    port: int, urls: Sequence[str], otlp_endpoint: str | None = None, redis_port: int | None = None
) -> str:
    """Return the router's configuration with everything on: rules, records, metrics, log, spans, session pins in memory or
    in Redis. The limit per backend is above the 1,000 streams of the test."""
    return yaml.safe_dump(
        {
            "server": {"host": "127.0.0.1", "port": port, "settle_seconds": 0.0},
            "pools": {
                "general": {
                    "policy": "least_loaded",
                    "models": ["bench"],
                    "backends": {f"backend-{n}": {"url": url} for n, url in enumerate(urls)},
                }
            },
            "routing": {"default_pool": "general", "rules_file": "rules.yaml"},
            "limits": {"max_in_flight_per_backend": 2000},
            **({"telemetry": {"otlp_endpoint": otlp_endpoint}} if otlp_endpoint is not None else {}),
            **({"redis": {"url": f"redis://127.0.0.1:{redis_port}/0"}} if redis_port is not None else {}),
        },
        sort_keys=False,
    )


def rules(count: int = 10) -> str:
    """Return ``count`` rules of mixed kinds that do not match the benchmark's requests, so that all are evaluated."""
    kinds: list[dict[str, object]] = [
        {"max_tokens_gte": 100_000},
        {"prompt_chars_gte": 1_000_000},
        {"header": {"x-canary": "yes"}},
        {"any_keywords": ["python", "proof", "stack trace"]},
        {"client_id": ["nightly-*"]},
        {"messages_gte": 50},
        {"has_images": True},
        {"model": ["llama-*"]},
        {"has_tools": True},
        {"path": ["/v1/rerank"]},
    ]
    return yaml.safe_dump(
        {
            "rules": [
                {"name": f"rule-{n}", "when": kinds[n % len(kinds)], "route_to": "general"}
                for n in range(count)
            ]
        },
        sort_keys=False,
    )


def envoy_config(port: int, backends: Sequence[int]) -> str:
    """Return the configuration of a bare round-robin HTTP proxy: no access log, no filter but the router."""
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": backend}}}}
        for backend in backends
    ]
    prefix = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{prefix}.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s"}}],
                }
            ]
        },
    }
    unlimited = {"max_connections": 100_000, "max_requests": 100_000, "max_pending_requests": 100_000}
    return yaml.safe_dump(
        {
            "static_resources": {
                "listeners": [
                    {
                        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                        "filter_chains": [
                            {
                                "filters": [
                                    {
                                        "name": "envoy.filters.network.http_connection_manager",
                                        "typed_config": manager,
                                    }
                                ]
                            }
                        ],
                    }
                ],
                "clusters": [
                    {
                        "name": "engines",
                        "type": "STATIC",
                        "connect_timeout": "1s",
                        "circuit_breakers": {"thresholds": [unlimited]},
                        "load_assignment": {
                            "cluster_name": "engines",
                            "endpoints": [{"lb_endpoints": endpoints}],
                        },
                    }
                ],
            }
        },
        sort_keys=False,
    )
