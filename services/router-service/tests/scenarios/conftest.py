"""A real router in front of two real engine simulators, all on free ports, for one test module."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.router_fleet import UNTIL_CLEARED
from harness.waiting import eventually

BIN = Path(sys.executable).parent
MODEL = "smollm2-135m-instruct"
SILENCE = 2.0
"""Seconds without a token that count as silence: longer than a token takes on a busy machine."""


@dataclass
class Simulator:
    """One engine simulator under test control."""

    name: str
    port: int
    pid: int

    def fault(self, kind: str, **more: Any) -> None:
        httpx.post(
            f"http://127.0.0.1:{self.port}/sim/faults", json={"kind": kind, "seconds": UNTIL_CLEARED, **more}
        ).raise_for_status()

    def heal(self) -> None:
        httpx.delete(f"http://127.0.0.1:{self.port}/sim/faults").raise_for_status()

    def listens(self) -> bool:
        try:
            httpx.get(f"http://127.0.0.1:{self.port}/health")
        except httpx.TransportError:
            return False
        return True

    def state(self) -> dict[str, Any]:
        return httpx.get(f"http://127.0.0.1:{self.port}/sim/state").json()

    def gauge(self, name: str) -> float:
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"vllm:{name}")
        )


@dataclass
class Rig:
    """The router and its engines, with the requests and readings of a test."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    engines: dict[str, Simulator]

    @property
    def router_pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def body(self, stream: bool = True, max_tokens: int = 20, **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "Tell me about Paris."}]
        return {
            "model": MODEL, "messages": messages, "stream": stream, "max_tokens": max_tokens,
            "ignore_eos": True, **more,
        }  # fmt: skip

    def post(self, body: dict[str, Any], path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=30, **more)

    def record(self, request_id: str) -> dict[str, Any]:
        return eventually(lambda: _found(self.url, request_id), "the record is kept")

    def metric(self, name: str, **labels: str) -> float:
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if (
                line.startswith(name)
                and line[len(name)] in "{ "
                and all(f'{k}="{v}"' in line for k, v in labels.items())
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def in_flight(self) -> float:
        return self.metric("router_in_flight")

    def send(
        self, body: dict[str, Any], path: str = "/v1/chat/completions", headers: str = ""
    ) -> socket.socket:
        """Send a request on a raw socket that the test reads, or leaves."""
        raw = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        head = f"POST {path} HTTP/1.1\r\nhost: router\r\n{headers}content-length: {len(raw)}\r\n\r\n"
        connection.sendall(head.encode() + raw)
        return connection


def _found(url: str, request_id: str) -> dict[str, Any] | None:
    answer = httpx.get(f"{url}/debug/decisions/{request_id}")
    return answer.json() if answer.status_code == 200 else None


def config(port: int, engines: dict[str, int], **sections: Any) -> dict[str, Any]:
    return {
        "server": {"host": "127.0.0.1", "port": port, "settle_seconds": 0.3, **sections.pop("server", {})},
        "pools": {
            "general": {
                "models": [MODEL],
                "backends": {name: {"url": f"http://127.0.0.1:{p}"} for name, p in engines.items()},
            }
        },
        "routing": {"default_pool": "general"},
        "timeouts": {
            "connect_seconds": 2.0, "first_token_seconds": SILENCE, "idle_seconds": SILENCE, "total_seconds": 60,
        },
        "breaker": {"failures": 50, "open_seconds": 1, "slow_start_seconds": 0},
        "health": {"interval_seconds": 0.2},
        **sections,
    }  # fmt: skip


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    """Sections of the configuration that a module overrides."""
    return {}


@pytest.fixture(scope="module")
def step_seconds() -> float:
    """Seconds per token of the simulators."""
    return 0.02


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    return []


@pytest.fixture(scope="module")
def module_rig(
    tmp_path_factory: pytest.TempPathFactory,
    sections: dict[str, Any],
    step_seconds: float,
    rules: list[dict[str, Any]],
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("rig")
    ports = {"engine-a": free_port(), "engine-b": free_port()}
    port = free_port()
    settings = config(port, ports, **sections)
    if rules:
        settings["routing"]["rules_file"] = "rules.yaml"
        (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": rules}))
    (folder / "router.yaml").write_text(yaml.safe_dump(settings))
    log = folder / "logs"
    log.mkdir()
    engines = {}
    with _all(
        {
            name: (
                [BIN / "engine-simulator", "serve", "--port", str(p), "--seed", "7", "--model", MODEL,
                 "--step-seconds", str(step_seconds), "--max-num-seqs", "400"],
                f"http://127.0.0.1:{p}/health",
            )
            for name, p in ports.items()
        },
        log,
    ) as pids:  # fmt: skip
        for name, p in ports.items():
            engines[name] = Simulator(name, p, pids[name])
        with running(
            [BIN / "router-service", "serve", "--config", folder / "router.yaml"],
            log=log / "router.jsonl",
            ready=answers(f"http://127.0.0.1:{port}/readyz"),
        ) as process:
            rig = Rig(port, process, log / "router.jsonl", engines)
            eventually(lambda: rig.metric("router_usable_backends") == 2, "both engines are usable")
            yield rig


LoneRouter = Callable[..., contextlib.AbstractContextManager[Rig]]


@pytest.fixture
def lone_router(tmp_path: Path) -> LoneRouter:
    """Return a function that runs a router in front of ``engines`` (name to port) that may not listen.

    Other arguments are keys of the pool.
    """

    @contextlib.contextmanager
    def start(engines: dict[str, int], **pool: Any) -> Iterator[Rig]:
        port = free_port()
        settings = config(port, engines)
        settings["pools"]["general"] |= pool
        (tmp_path / "router.yaml").write_text(yaml.safe_dump(settings))
        log = tmp_path / "router.jsonl"
        command = [BIN / "router-service", "serve", "--config", tmp_path / "router.yaml"]
        with running(command, log=log, ready=answers(f"http://127.0.0.1:{port}/readyz")) as process:
            yield Rig(port, process, log, {})

    return start


class _all:
    """Several processes at once, ended in reverse."""

    def __init__(self, commands: dict[str, tuple[list[Any], str]], log: Path) -> None:
        self._commands = commands
        self._log = log
        self._open: list[Any] = []

    def __enter__(self) -> dict[str, int]:
        found = {}
        for name, (command, url) in self._commands.items():
            context = running(command, log=self._log / f"{name}.jsonl", ready=answers(url))
            process = context.__enter__()
            self._open.append(context)
            found[name] = process.pid
        return found

    def __exit__(self, *error: object) -> None:
        for context in reversed(self._open):
            context.__exit__(None, None, None)


@pytest.fixture
def rig(module_rig: Rig) -> Iterator[Rig]:
    """The module's rig, healed, idle, with both engines usable."""
    yield module_rig
    for engine in module_rig.engines.values():
        eventually(engine.listens, f"{engine.name} listens after a test")
        engine.heal()
    eventually(lambda: module_rig.in_flight() == 0, "nothing is in flight after a test")
    eventually(lambda: module_rig.metric("router_usable_backends") == 2, "both engines are usable again")


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Any]:
    return eventually
