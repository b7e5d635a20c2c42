"""Several real routers, engine simulators and a Redis for one test; each can be stopped and restarted."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import redis
import yaml

from harness.ports import free_port
from harness.processes import answers, launched, terminate, wait_until_ready
from harness.waiting import eventually

BIN = Path(sys.executable).parent

UNTIL_CLEARED = 3600.0
"""Seconds of a fault that the test clears itself; the simulator's default is short."""
MODEL = "smollm2-135m-instruct"


class Part:
    """One process that a test starts, freezes, kills and restarts, always on the same port.

    ``launch`` does not wait, so several parts start at the same time. Reading ``url`` waits until the part is ready.
    """

    def __init__(self, command: list[Any], log: Path, ready: Callable[[], bool], port: int) -> None:
        self.command = command
        self.log = log
        self.ready = ready
        self.port = port
        self._open = contextlib.ExitStack()
        self.process: subprocess.Popen[bytes] | None = None
        self._starting = False

    @property
    def url(self) -> str:
        self.wait()
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def launch(self) -> None:
        """Start it without waiting until it is ready."""
        self.process = self._open.enter_context(launched(self.command, log=self.log))
        self._starting = True

    def wait(self) -> None:
        """Wait until a launched part is ready.

        Raises:
            DidNotStart: it ended, or was not ready in time.
        """
        if self._starting and self.process is not None:
            self._starting = False
            wait_until_ready(self.process, self.log, self.ready)

    def start(self) -> None:
        self.launch()
        self.wait()

    def terminate(self) -> None:
        """Send SIGTERM; ``end`` waits for the process."""
        if self.process is not None:
            terminate(self.process)

    def end(self) -> None:
        """Stop it with SIGTERM, as a rollout does."""
        self._open.close()
        self.process = None

    def kill(self) -> None:
        """Kill it at once, as a crash does."""
        self.wait()
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def freeze(self) -> None:
        """Freeze it: its connections stay open and nothing responds."""
        self.wait()
        os.kill(self.pid, signal.SIGSTOP)
        eventually(lambda: f"/proc/{self.pid}/stat" and self._state() == "T", "the process is stopped")

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


class Engine(Part):
    """An engine simulator."""

    def fault(self, kind: str, **more: Any) -> None:
        httpx.post(
            f"{self.url}/sim/faults", json={"kind": kind, "seconds": UNTIL_CLEARED, **more}
        ).raise_for_status()

    def heal(self) -> None:
        httpx.delete(f"{self.url}/sim/faults").raise_for_status()

    def hits(self, kind: str) -> int:
        return int(httpx.get(f"{self.url}/sim/state").json()["fault_hits"].get(kind, 0))

    def under_way(self) -> int:
        """Return how many requests it is working on."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return int(
            sum(
                float(line.rsplit(" ", 1)[1])
                for line in lines
                if line.startswith("vllm:num_requests_running")
            )
        )


class RouterPart(Part):
    """A router replica."""

    def post(
        self, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        asked = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Tell me about Paris."}],
            "max_tokens": 2,
            "ignore_eos": True,
            **body,
        }
        return httpx.post(self.url + path, json=asked, headers=headers or {}, timeout=30)

    def record(self, request_id: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            answer = httpx.get(f"{self.url}/debug/decisions/{request_id}")
            return answer.json() if answer.status_code == 200 else None

        record: dict[str, Any] = eventually(found, "the record is kept")
        return record

    def exposition(self) -> str:
        return httpx.get(f"{self.url}/metrics").text

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of ``name`` with ``labels``."""
        total = 0.0
        for line in self.exposition().splitlines():
            head, _, value = line.rpartition(" ")
            if head.split("{")[0] == name and all(f'{k}="{v}"' in head for k, v in labels.items()):
                total += float(value)
        return total

    def usable(self, pool: str = "general") -> float:
        return self.metric("router_usable_backends", pool=pool)

    def log_lines(self) -> list[str]:
        return self.log.read_text().splitlines()


class Fleet:
    """Engines, routers in front of all engines, and a shared Redis."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engines: dict[str, Engine] = {}
        self.routers: list[RouterPart] = []
        self.redis: Part | None = None
        self._parts: list[Part] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._open:
            for router in self.routers:
                router.terminate()
            for router in self.routers:
                router.end()
            for part in self._parts:
                part.terminate()

    def wait(self) -> None:
        """Wait until every launched part is ready."""
        for part in self._parts:
            part.wait()

    def add_engine(self, name: str, *options: str, port: int | None = None) -> Engine:
        """Launch an engine simulator; the next router, or the first use of its ``url``, waits for it."""
        port = port or free_port()
        command = [
            *(BIN / "engine-simulator", "serve", "--port", str(port), "--seed", "7", "--model", MODEL),
            *("--step-seconds", "0.005", "--max-num-seqs", "400", *options),
        ]
        engine = Engine(
            command, self.folder / f"{name}.jsonl", answers(f"http://127.0.0.1:{port}/health"), port
        )
        self._keep(engine)
        self.engines[name] = engine
        return engine

    def add_redis(self, *options: str) -> Part:
        """Launch a Redis; the next router waits for it."""
        port = free_port()

        def ready() -> bool:
            try:
                return bool(redis.Redis(port=port, socket_timeout=1).ping())
            except redis.AuthenticationError:
                return True
            except (redis.ConnectionError, redis.TimeoutError):
                return False

        command = [
            *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
            *("--dir", str(self.folder), *options),
        ]
        self.redis = Part(command, self.folder / "redis.log", ready, port)
        self._keep(self.redis)
        return self.redis

    def configuration(self, port: int, **sections: Any) -> dict[str, Any]:
        """Return the configuration of a router on ``port``; ``sections`` replace the default sections."""
        values: dict[str, Any] = {
            "server": {"host": "127.0.0.1", "port": port, "settle_seconds": 0.2},
            "pools": {
                "general": {
                    "models": [MODEL],
                    "backends": {
                        name: {"url": f"http://127.0.0.1:{engine.port}"} for name, engine in self.engines.items()
                    },
                }
            },
            "routing": {"default_pool": "general"},
            "timeouts": {
                "connect_seconds": 1.0, "first_token_seconds": 1.5, "idle_seconds": 1.5, "total_seconds": 20,
            },
            "breaker": {"failures": 3, "open_seconds": 1, "slow_start_seconds": 0},
            "health": {"interval_seconds": 0.2, "timeout_seconds": 0.5},
        }  # fmt: skip
        if self.redis is not None:
            values["redis"] = {"url": f"redis://127.0.0.1:{self.redis.port}/0"}
        sections = {**sections, "server": {**values["server"], **sections.get("server", {})}}
        return {**values, **sections}

    def add_router(
        self,
        *,
        wait_usable: int | None = None,
        port: int | None = None,
        wrapper: Sequence[str] = (),
        **sections: Any,
    ) -> RouterPart:
        """Start a router in front of all engines; wait until ``wait_usable`` of them are usable.

        ``wrapper`` goes before the command (``env X=y``).
        """
        self.wait()
        port = port or free_port()
        path = self.folder / f"router-{len(self.routers)}.yaml"
        path.write_text(yaml.safe_dump(self.configuration(port, **sections)))
        command = [*wrapper, BIN / "router-service", "serve", "--config", path]
        log = self.folder / f"router-{len(self.routers)}.jsonl"
        router = RouterPart(command, log, answers(f"http://127.0.0.1:{port}/readyz"), port)
        self._keep(router)
        router.wait()
        self.routers.append(router)
        expected = len(self.engines) if wait_usable is None else wait_usable
        eventually(lambda: router.usable() == expected, f"{expected} backends are usable")
        return router

    def rewrite(self, router: RouterPart, **sections: Any) -> None:
        """Replace a router's configuration file atomically, as a ConfigMap update does."""
        self.wait()
        path = Path(router.command[-1])
        new = path.with_suffix(".new")
        new.write_text(yaml.safe_dump(self.configuration(router.port, **sections)))
        new.replace(path)

    def _keep(self, part: Part) -> None:
        self._open.callback(part.end)
        part.launch()
        self._parts.append(part)


@contextlib.contextmanager
def fleet_in(folder: Path) -> Iterator[Fleet]:
    """Yield a fleet whose processes all end with the block."""
    with Fleet(folder) as fleet:
        yield fleet
