"""The parts of the stack: command, ports and readiness check of each. Starts nothing and sends no request."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from platform_tools.local_stack.router_configuration import router_config_in_use
from platform_tools.local_stack.settings import Settings

GENERATE_SECONDS = 30.0  # seconds for a part to finish its in-flight requests
SIMULATOR_MODEL = "smollm2-135m-instruct"
# Model names of each engine besides the model's own: the aliases in the router's configuration.
EXTRA_NAMES = {"a": ("gpt-small",), "b": ("gpt-small", "smollm2-135m-long")}


@dataclass(frozen=True)
class Http:
    """Ready once a GET returns 200."""

    url: str


@dataclass(frozen=True)
class RedisPing:
    """Ready once PING is answered."""

    port: int


@dataclass(frozen=True)
class RouterReady:
    """Ready once the router's /readyz returns 200 and every pool has a usable backend."""

    url: str


@dataclass(frozen=True)
class RouterUses:
    """Ready once the router uses each of ``engines`` in its configuration; ``url`` lists its backends."""

    url: str
    engines: tuple[str, ...]


@dataclass(frozen=True)
class Liveness:
    """The process is stopped and restarted after ``url`` has failed this often in a row.

    The thresholds are those of the chart's probe: together longer than the 60 s an agent may be away.
    """

    url: str
    period_seconds: float = 10.0
    failures: int = 9


Readiness = Http | RedisPing | RouterReady | RouterUses


@dataclass(frozen=True)
class Part:
    """One process of the stack.

    ``ports`` maps the variables to the ports it listens on, the main one first. ``prepare`` writes what
    it reads at start. ``before_stop`` runs before SIGTERM, for parts that must be drained first.
    """

    name: str
    command: tuple[str, ...]
    ports: Mapping[str, int]
    ready: Readiness
    env: Mapping[str, str] = field(default_factory=dict)
    stop_seconds: float = 5.0
    before_stop: tuple[str, ...] = ()
    liveness: Liveness | None = None

    @property
    def port(self) -> int:
        return next(iter(self.ports.values()))


def port_environment(settings: Settings) -> dict[str, str]:
    """Return every port variable, so that each program finds the others."""
    return {variable: str(port) for variable, port in settings.ports.items()}


def parts_of(
    settings: Settings, engine_commands: Mapping[str, tuple[list[str], dict[str, str]]]
) -> list[Part]:
    """Return the parts in stop order: nearest to the client first.

    ``engine_commands`` holds, for each of ``a`` and ``b``, the vLLM command line and its environment;
    the ``sim`` profile needs none.
    """
    parts = [_edge(settings), _router(settings)]
    if has_budgets(settings.edge_settings):
        parts.insert(1, _rate_limit(settings))
    for letter in ("a", "b"):
        parts += [_agent(settings, letter), _engine(settings, letter, engine_commands)]
    return [*parts, _redis(settings), *_observers(settings)]


def configured_parts(settings: Settings) -> list[Part]:
    """Return the parts without the engines' command lines, which checking, watching and stopping do not need."""
    unknown: tuple[list[str], dict[str, str]] = ([], {})
    return parts_of(settings, {"a": unknown, "b": unknown})


def _on(settings: Settings, *variables: str) -> dict[str, int]:
    return {variable: settings.port(variable) for variable in variables}


def _bin(settings: Settings, name: str) -> str:
    return str(settings.platform_bin / name)


def _edge(settings: Settings) -> Part:
    run_dir = settings.run_dir / "edge"
    return Part(
        "edge",
        (
            _bin(settings, "edge-gateway"),
            "start",
            *("--settings", str(settings.edge_settings)),
            *("--keys-file", str(settings.keys_file)),
            *("--run-dir", str(run_dir)),
        ),
        _on(settings, "EDGE_PORT", "EDGE_ADMIN_PORT", "EDGE_TELEMETRY_PORT"),
        Http(settings.url("EDGE_PORT", "/healthz")),
        env=port_environment(settings),
        before_stop=(
            _bin(settings, "edge-gateway"),
            "drain",
            *("--admin-port", str(settings.port("EDGE_ADMIN_PORT"))),
            *("--settle-seconds", "0", "--limit-seconds", f"{GENERATE_SECONDS:.0f}"),
        ),
    )


def _rate_limit(settings: Settings) -> Part:
    return Part(
        "rate-limit",
        (
            _bin(settings, "rate-limit-service"),
            "serve",
            *("--settings", str(settings.edge_settings)),
            *("--port", str(settings.port("RATE_LIMIT_PORT"))),
            *("--metrics-port", str(settings.port("RATE_LIMIT_METRICS_PORT"))),
            *("--redis-url", f"redis://127.0.0.1:{settings.port('REDIS_PORT')}/1"),
        ),
        _on(settings, "RATE_LIMIT_PORT", "RATE_LIMIT_METRICS_PORT"),
        Http(settings.url("RATE_LIMIT_METRICS_PORT", "/metrics")),
    )


def has_budgets(edge_settings: Path) -> bool:
    """Return whether the edge's settings use shared budgets, which need the rate limit service."""
    try:
        lines = edge_settings.read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("budgets:") for line in lines)


def _router(settings: Settings) -> Part:
    return Part(
        "router",
        (
            _bin(settings, "router-service"),
            "serve",
            *("--config", str(router_config_in_use(settings))),
            *("--port", str(settings.port("ROUTER_PORT"))),
        ),
        _on(settings, "ROUTER_PORT"),
        RouterReady(settings.url("ROUTER_PORT", "/readyz")),
        stop_seconds=GENERATE_SECONDS + 5,
    )


def _agent(settings: Settings, letter: str) -> Part:
    upper = letter.upper()
    engine_url = settings.url(f"ENGINE_{upper}_PORT")
    return Part(
        f"agent-{letter}",
        (
            _bin(settings, "backend-agent"),
            "serve",
            *("--name", f"backend-{letter}"),
            *("--engine-url", engine_url),
            *("--port", str(settings.port(f"AGENT_{upper}_PORT"))),
            *("--model-file", str(model_file(settings))),
            *("--device", f"dcgm:{engine_url}/sim/dcgm" if settings.profile == "sim" else "process"),
        ),
        _on(settings, f"AGENT_{upper}_PORT"),
        Http(settings.url(f"AGENT_{upper}_PORT", "/readyz")),
    )


def model_file(settings: Settings) -> Path:
    return settings.root / "services" / "inference-backend" / "models" / "smollm2-135m-instruct.yaml"


def _engine(
    settings: Settings, letter: str, engine_commands: Mapping[str, tuple[list[str], dict[str, str]]]
) -> Part:
    variable = f"ENGINE_{letter.upper()}_PORT"
    if settings.profile == "sim":
        command: list[str] = [
            _bin(settings, "engine-simulator"),
            "serve",
            *("--port", str(settings.port(variable))),
            *("--seed", str(ord(letter))),
            *("--model", SIMULATOR_MODEL),
            *(text for name in EXTRA_NAMES[letter] for text in ("--served-model-name", name)),
            *shlex.split(os.environ.get("SIMULATOR_ARGUMENTS", "")),
        ]
        env: dict[str, str] = {}
    else:
        command, env = engine_commands[letter]
    return Part(
        f"backend-{letter}",
        tuple(command),
        _on(settings, variable),
        Http(settings.url(variable, "/health")),
        env=env,
        stop_seconds=GENERATE_SECONDS,
        liveness=Liveness(settings.url(f"AGENT_{letter.upper()}_PORT", "/livez")),
    )


def _redis(settings: Settings) -> Part:
    return Part(
        "redis",
        ("redis-server", str(settings.run_dir / "redis" / "redis.conf")),
        _on(settings, "REDIS_PORT"),
        RedisPing(settings.port("REDIS_PORT")),
    )


def redis_configuration(settings: Settings) -> str:
    """Return redis.conf: loopback, bounded memory, nothing written to disk (it holds only routing state)."""
    return "\n".join(
        [
            "bind 127.0.0.1",
            f"port {settings.port('REDIS_PORT')}",
            "protected-mode yes",
            f'dir "{settings.run_dir / "redis"}"',
            'save ""',
            "appendonly no",
            "maxmemory 64mb",
            # Budgets do not expire: session pins and hints cannot evict them.
            "maxmemory-policy volatile-lru",
            'logfile ""',
            "set-proc-title no",  # it would overwrite the mark that identifies the stack's processes
            "",
        ]
    )


def _observers(settings: Settings) -> list[Part]:
    rendered = settings.run_dir / "observability"
    prometheus = settings.port("PROMETHEUS_PORT")
    alertmanager = settings.port("ALERTMANAGER_PORT")
    return [
        Part(
            "prometheus",
            (
                "prometheus",
                f"--config.file={rendered / 'prometheus.yml'}",
                f"--storage.tsdb.path={settings.run_dir / 'prometheus'}",
                "--storage.tsdb.retention.time=2d",
                "--storage.tsdb.retention.size=1GB",
                f"--web.listen-address=127.0.0.1:{prometheus}",
                "--web.enable-lifecycle",
                "--enable-feature=exemplar-storage",
            ),
            _on(settings, "PROMETHEUS_PORT"),
            Http(settings.url("PROMETHEUS_PORT", "/-/ready")),
            stop_seconds=15.0,
        ),
        Part(
            "alertmanager",
            (
                "prometheus-alertmanager",
                f"--config.file={rendered / 'alertmanager.yml'}",
                f"--storage.path={settings.run_dir / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            ),
            _on(settings, "ALERTMANAGER_PORT"),
            Http(settings.url("ALERTMANAGER_PORT", "/-/ready")),
        ),
        *_exporters(settings),
        Part(
            "pictures",
            (
                _bin(settings, "observability"),
                "pictures",
                *("--port", str(settings.port("PICTURES_PORT"))),
                *("--prometheus", settings.url("PROMETHEUS_PORT")),
            ),
            _on(settings, "PICTURES_PORT"),
            Http(settings.url("PICTURES_PORT", "/healthz")),
        ),
        Part(
            "console",
            (
                *(_bin(settings, "console"), "serve", "--port", str(settings.port("CONSOLE_PORT"))),
                *("--router", settings.url("ROUTER_PORT")),
                *("--prometheus", settings.url("PROMETHEUS_PORT")),
                *("--charts-url", settings.url("PICTURES_PORT")),
            ),
            _on(settings, "CONSOLE_PORT"),
            Http(settings.url("CONSOLE_PORT", "/healthz")),
        ),
    ]


def _exporters(settings: Settings) -> list[Part]:
    node = settings.port("NODE_EXPORTER_PORT")
    redis = settings.port("REDIS_EXPORTER_PORT")
    return [
        Part(
            "node-exporter",
            ("prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{node}"),
            _on(settings, "NODE_EXPORTER_PORT"),
            Http(settings.url("NODE_EXPORTER_PORT", "/metrics")),
        ),
        Part(
            "redis-exporter",
            (
                "prometheus-redis-exporter",
                f"-web.listen-address=127.0.0.1:{redis}",
                f"-redis.addr=redis://127.0.0.1:{settings.port('REDIS_PORT')}",
            ),
            _on(settings, "REDIS_EXPORTER_PORT"),
            Http(settings.url("REDIS_EXPORTER_PORT", "/metrics")),
        ),
    ]


def engine_environment() -> dict[str, str]:
    """Return the environment variables that let two engines share one machine's cores fairly.

    Bound to cores, as vLLM does by default, the second engine gets a third of the first one's speed; with
    spinning waits each steals the other's time. Measured on 2 cores with 4 + 4 streams: 6.3 and 5.9
    tokens/s for each stream like this, 10 and 3 by default.
    """
    cores = len(os.sched_getaffinity(0))
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(min(cores, 8)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
        # vLLM renames its processes and would overwrite the mark that identifies the stack's processes.
        "SPT_NOENV": "1",
    }
