"""What is measured: our router as shipped and its peers, each with its quietest logging; measures nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class System:
    """One program in front of the backends. ``ready_path`` answers 200 when it may be measured."""

    name: str
    command: tuple[str, ...]
    ready_path: str

    def shown(self) -> str:
        """The command as a person would type it, without this machine's paths."""
        return " ".join(part.replace(str(ROOT) + "/", "") for part in self.command)


def systems(port: int, metrics_port: int, backends: Sequence[int], folder: Path) -> list[System]:
    """Every system, to listen on ``port``, in front of ``backends``. Writes their files to ``folder``."""
    urls = [f"http://127.0.0.1:{backend}" for backend in backends]
    bench = ROOT / ".venv-bench" / "bin"
    peers = [
        "--worker-urls",
        *urls,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--policy",
        "round_robin",
        "--prometheus-port",
        str(metrics_port),
    ]
    router = folder / "router.yaml"
    router.write_text(router_config(port, urls))
    (folder / "rules.yaml").write_text(rules())
    envoy = folder / "envoy.yaml"
    envoy.write_text(envoy_config(port, backends))
    return [
        System(
            "router-service",
            (str(ROOT / ".venv/bin/router-service"), "serve", "--config", str(router)),
            "/readyz",
        ),
        System(
            "vllm-router",
            (str(bench / "vllm-router"), *peers, "--log-level", "error"),
            "/health",
        ),
        System(
            "sglang-router",
            (str(bench / "sglang-router"), "launch", *peers, "--log-level", "error"),
            "/health",
        ),
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


def router_config(port: int, urls: Sequence[str]) -> str:
    """Everything on: rules, records, metrics, log, trace ratio 0.01, affinity in memory. The limit per
    backend is above the 1,000 streams of the test, as a deployment for that load would set it."""
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
        },
        sort_keys=False,
    )


def rules(count: int = 10) -> str:
    """``count`` rules of mixed kinds that do not match the benchmark's requests: all are evaluated."""
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
    """A bare HTTP proxy with round robin: no access log, no filters but the router."""
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
