"""Real edges (Envoy) and rate limit services for tests, on free ports, in front of any router port."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
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

# Rates no test meets by accident.
WIDE = {"requests_per_second": 100_000, "burst": 100_000}


@dataclass(frozen=True)
class Edge:
    """A running edge."""

    port: int
    admin_port: int
    telemetry_port: int
    log: Path
    run_dir: Path
    settings_file: Path
    keys_file: Path
    process: "Popen[bytes]"
    scheme: str = "http"

    @property
    def url(self) -> str:
        """The base URL a client uses."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def headers(self, key: str = CLIENT_KEY, **more: str) -> dict[str, str]:
        """Return the headers of a proper request."""
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {"authorization": f"Bearer {key}", "content-type": "application/json", **named}

    def post(self, body: Any = None, path: str = CHAT, key: str = CLIENT_KEY, **more: str) -> httpx.Response:
        """POST ``body`` (bytes as they are, anything else as JSON) like a proper client."""
        content = (
            body if isinstance(body, bytes) else json.dumps(GOOD_BODY if body is None else body).encode()
        )
        with httpx.Client(timeout=30) as client:
            return client.post(self.url + path, content=content, headers=self.headers(key, **more))

    def metric(self, name: str) -> float:
        """Return the sum of a metric's series (0 if it has none yet)."""
        text = httpx.get(f"http://127.0.0.1:{self.telemetry_port}/stats/prometheus", timeout=10).text
        lines = (line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name)
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

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
        """Return the access log's entry of one request; it is written when the answer has ended."""
        deadline = time.monotonic() + seconds
        while True:
            for entry in self.access_lines():
                if entry["request_id"] == request_id:
                    return entry
            assert time.monotonic() < deadline, f"no access log line for {request_id}"
            time.sleep(0.05)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on top, section by section."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = (
            merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
        )
    return result


def write_keys(path: Path, clients: Mapping[str, list[str]]) -> None:
    """Write a keys file as the edge demands it."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        yaml.safe_dump({"clients": dict(clients)}, file)


@contextlib.contextmanager
def running_edge(
    directory: Path,
    router_port: int,
    settings: Mapping[str, Any] | None = None,
    keys: Mapping[str, list[str]] | None = None,
    port: int | None = None,
) -> Iterator[Edge]:
    """Run a real edge whose files are in ``directory`` until the block ends.

    ``settings`` is laid over test settings (wide rates, every limit at its default). Stopping it sends
    SIGTERM at once: a test that wants a drain asks for it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port, admin, telemetry = port or free_port(), free_port(), free_port()
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
    command: list[str | os.PathLike[str]] = [
        sys.executable,
        "-m",
        "edge_gateway.main",
        "start",
        "--settings",
        settings_file,
    ]
    command += ["--run-dir", directory / "run", "--keys-file", keys_file]
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


@contextlib.contextmanager
def running_redis(directory: Path, *options: str) -> Iterator[int]:
    """Run a Redis that keeps nothing on disk until the block ends; yields its port."""
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
