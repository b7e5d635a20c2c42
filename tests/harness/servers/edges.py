"""Real edges (Envoy) and rate limit services for tests, on free ports, in front of any router port."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import yaml

from edge_gateway.settings import OPTIONAL_PORT_VARIABLES, PORT_VARIABLES
from harness.ports import free_port
from harness.processes import answers, running

CLIENT_KEY = "sk-test-client-0123456789abcdef0123456789"
LOAD_KEY = "sk-test-load-0123456789abcdef0123456789abc"
GOOD_BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"

# Rates that no test reaches by accident.
WIDE = {"requests_per_second": 100_000, "burst": 100_000}


@dataclass(frozen=True)
class Edge:
    """A running edge. ``ca_file`` is the authority of its certificate, if clients speak TLS."""

    port: int
    admin_port: int
    telemetry_port: int
    log: Path
    run_dir: Path
    settings_file: Path
    keys_file: Path
    process: "Popen[bytes]"
    scheme: str = "http"
    ca_file: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """Return a new context of a client that trusts the edge's certificate; None without TLS."""
        return None if self.ca_file is None else ssl.create_default_context(cafile=self.ca_file)

    @property
    def url(self) -> str:
        """Return the base URL for clients."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def headers(self, key: str = CLIENT_KEY, **more: str) -> dict[str, str]:
        """Return the headers of a valid request."""
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {"authorization": f"Bearer {key}", "content-type": "application/json", **named}

    def post(self, body: Any = None, path: str = CHAT, key: str = CLIENT_KEY, **more: str) -> httpx.Response:
        """POST ``body`` (bytes unchanged, anything else as JSON) with valid headers."""
        content = (
            body if isinstance(body, bytes) else json.dumps(GOOD_BODY if body is None else body).encode()
        )
        with httpx.Client(timeout=30, verify=self.tls() or True) as client:
            return client.post(self.url + path, content=content, headers=self.headers(key, **more))

    def metric(self, name: str) -> float:
        """Return the sum of a metric's series (0 if it has none yet)."""
        text = httpx.get(f"http://127.0.0.1:{self.telemetry_port}/stats/prometheus", timeout=10).text
        lines = (line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name)
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def is_healthy(self, port: int) -> bool:
        """Return whether Envoy reports the router replica at ``port`` as healthy."""
        text = httpx.get(f"http://127.0.0.1:{self.admin_port}/clusters", timeout=10).text
        flags = re.findall(rf"^router::[^:]+:{port}::health_flags::(.*)$", text, re.MULTILINE)
        assert flags, f"Envoy has no router replica at port {port}"
        return flags == ["healthy"]

    def access_lines(self) -> list[dict[str, Any]]:
        """Return the access log's entries so far."""
        lines = []
        for text in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(text)
                if entry.get("event") == "request":
                    lines.append(entry)
        return lines

    def access_line(self, request_id: str, seconds: float = 10.0) -> dict[str, Any]:
        """Return the access log's entry of one request; Envoy writes it after the response."""
        deadline = time.monotonic() + seconds
        while True:
            for entry in self.access_lines():
                if entry["request_id"] == request_id:
                    return entry
            assert time.monotonic() < deadline, f"no access log line for {request_id}"
            time.sleep(0.05)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` overridden by ``over``, section by section."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = (
            merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
        )
    return result


def write_keys(path: Path, clients: Mapping[str, list[str]]) -> None:
    """Write a keys file in the edge's format."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        yaml.safe_dump({"clients": dict(clients)}, file)


@contextlib.contextmanager
def running_edge(
    directory: Path,
    router_port: int,
    settings: Mapping[str, Any] | None = None,
    keys: Mapping[str, list[str]] | None = None,
    port: int | None = None,
    name_server_port: int | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[Edge]:
    """Run a real edge whose files are in ``directory`` until the block ends.

    ``settings`` override the test settings (high rates, every limit at its default). Stopping it sends
    SIGTERM at once; a test that needs a drain requests it. With ``name_server_port`` Envoy resolves the
    router's name at that port of the loopback address. ``wrapper`` precedes the edge's command.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port, admin = port or free_port(), free_port()
    telemetry = int((settings or {}).get("telemetry", {}).get("port") or free_port())
    document = merged(
        {
            "listen": {"port": port},
            "admin": {"port": admin},
            "telemetry": {"port": telemetry},
            "router": {"port": router_port},
            "limits": {"default": WIDE},
        },
        settings or {},
    )
    settings_file, keys_file = directory / "settings.yaml", directory / "keys.yaml"
    settings_file.write_text(yaml.safe_dump(document))
    write_keys(keys_file, keys or {"tester": [CLIENT_KEY], "load": [LOAD_KEY]})
    environment = dict.fromkeys([*PORT_VARIABLES, *OPTIONAL_PORT_VARIABLES], "")
    command: list[str | os.PathLike[str]] = [*wrapper, sys.executable, "-m", "edge_gateway.main", "start"]
    command += ["--settings", settings_file, "--run-dir", directory / "run", "--keys-file", keys_file]
    if name_server_port:
        command = _started_with_name_server(command, directory / "run", name_server_port)
    log = directory / "edge.log"
    with running(
        command,
        log=log,
        ready=answers(f"http://127.0.0.1:{telemetry}/ready"),
        env=environment,
        ready_seconds=60,
    ) as process:
        yield Edge(
            port=port,
            admin_port=admin,
            telemetry_port=telemetry,
            log=log,
            run_dir=directory / "run",
            settings_file=settings_file,
            keys_file=keys_file,
            process=process,
            scheme="https" if "tls" in document else "http",
        )


def _started_with_name_server(
    start: list[str | os.PathLike[str]], run_dir: Path, port: int
) -> list[str | os.PathLike[str]]:
    """Render the files, add the resolver to the router's cluster, and return the command that starts from them."""
    render = ["render" if part == "start" else "--out" if part == "--run-dir" else part for part in start]
    subprocess.run(render, check=True, env={**os.environ, **dict.fromkeys(PORT_VARIABLES, "")})
    document = yaml.safe_load((run_dir / "envoy.yaml").read_text())
    cluster = document["static_resources"]["clusters"][0]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    cluster["cluster_type"]["typed_config"]["typed_dns_resolver_config"] = {
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [address],
            "dns_resolver_options": {"no_default_search_domain": True},
        },
    }
    (run_dir / "envoy.yaml").write_text(yaml.safe_dump(document))
    return [*start[:4], "--rendered", run_dir]


@contextlib.contextmanager
def running_redis(directory: Path, *options: str) -> Iterator[int]:
    """Run a Redis without persistence until the block ends; yields its port."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        *options,
    ]
    with running(command, log=directory / "redis.log", ready=lambda: _listens(port), cwd=directory):
        yield port


@contextlib.contextmanager
def running_rate_limit_service(
    directory: Path, settings: Mapping[str, Any], redis_port: int
) -> Iterator[tuple[int, int]]:
    """Run the real rate limit service until the block ends; yields its gRPC and its metrics port."""
    directory.mkdir(parents=True, exist_ok=True)
    port, metrics = free_port(), free_port()
    budgets = {"port": port, "metrics_port": metrics, "redis_url": f"redis://127.0.0.1:{redis_port}/0"}
    file = directory / "budget-settings.yaml"
    file.write_text(yaml.safe_dump(merged(settings, {"budgets": budgets})))
    command: list[str | os.PathLike[str]] = [
        sys.executable,
        "-m",
        "rate_limit_service.main",
        "serve",
        "--settings",
        file,
    ]
    ready = answers(f"http://127.0.0.1:{metrics}/metrics")
    environment = dict.fromkeys([*PORT_VARIABLES, *OPTIONAL_PORT_VARIABLES], "")
    log = directory / "rate-limit-service.log"
    with running(command, log=log, ready=lambda: ready() and _listens(port), env=environment):
        yield port, metrics


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def redis_frozen(port: int) -> Iterator[None]:
    """Stop a Redis with SIGSTOP for the block."""
    shown = subprocess.run(
        ["redis-cli", "-p", str(port), "info", "server"], capture_output=True, text=True, check=True
    )
    pid = int(shown.stdout.split("process_id:")[1].split()[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
