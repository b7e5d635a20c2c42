"""Changes injected into a live simulator stack, and a list of what `why-ttft` reports meanwhile. Asserts nothing.

Each injection returns what must be listed: a pattern of the sentence, and the true time as an outside observer saw it.
"""

import contextlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from harness.background import Background
from harness.stacks.faults import MODEL, SimulatedEngine, pid_of
from harness.stacks.local import ROOT, Stack
from harness.waiting import eventually
from observability.why_ttft.changes import Change, read_changes
from platform_contracts.prometheus import Prometheus

RULES: list[dict[str, Any]] = [
    {"name": "long", "when": {"max_tokens_gte": 900}, "route_to": "general"},
    {"name": "old", "when": {"max_tokens_gte": 800}, "route_to": "general"},
    {"name": "kept", "when": {"max_tokens_gte": 700}, "route_to": "general"},
]


def router_configuration(folder: Path) -> Path:
    """Write a configuration of one pool with both backends, and its rules; return the file."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": RULES}))
    ports = {"backend-a": (8101, 8111), "backend-b": (8102, 8112)}
    document = {
        "server": {"host": "127.0.0.1", "port": 8000},
        "pools": {
            "general": {
                "policy": "round_robin",
                "models": [MODEL],
                "backends": {
                    name: {
                        "url": f"http://127.0.0.1:{engine}",
                        "health_url": f"http://127.0.0.1:{agent}/readyz",
                    }
                    for name, (engine, agent) in ports.items()
                },
            }
        },
        "routing": {"default_pool": "general", "rules_file": str(folder / "rules.yaml")},
        "affinity": {"enabled": True, "header": "x-session-id", "ttl_seconds": 1800},
        "redis": {"url": "redis://127.0.0.1:6380/0"},
        "breaker": {"failures": 5, "open_seconds": 8, "slow_start_seconds": 0, "max_ejected_ratio": 0.5},
        "timeouts": {"first_token_seconds": 8},
        "health": {"interval_seconds": 1.0},
    }
    path = folder / "router.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@dataclass(frozen=True)
class Expected:
    """One change that must be listed: a pattern of its words, and its true time in epoch seconds."""

    pattern: str
    at: float


@dataclass
class Seen:
    """A listed change, and when it was listed first."""

    change: Change
    listed_at: float


@dataclass
class Watcher(Background):
    """Reads the changes every two seconds while the block runs, as an open page would."""

    stack: Stack
    began: float = field(default_factory=time.time)
    seen: list[Seen] = field(default_factory=list)
    readings: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def find(self, expected: Expected, within_seconds: float = 60.0) -> Seen | None:
        """Return the listed change nearest to ``expected``, None if there is none near it."""
        fits = [one for one in list(self.seen) if re.fullmatch(expected.pattern, one.change.words)]
        near = [one for one in fits if abs(one.change.at - expected.at) <= within_seconds]
        return min(near, key=lambda one: abs(one.change.at - expected.at), default=None)

    def work(self) -> None:
        with Prometheus(self.stack.url("PROMETHEUS_PORT"), timeout_seconds=20) as prometheus:
            while not self.stop.wait(2.0):
                now = time.time()
                self.readings += 1
                for change in read_changes(prometheus, max(self.began, now - 240), now):
                    if not any(_same(change, one.change) for one in self.seen):
                        self.seen.append(Seen(change, time.time()))


def _same(one: Change, other: Change) -> bool:
    return one.words == other.words and abs(one.at - other.at) < 8.0


class Changer:
    """Injects changes into ``stack``. Every method leaves the stack as it found it, or with a harmless difference."""

    def __init__(self, stack: Stack, folder: Path, draw: random.Random) -> None:
        self.stack = stack
        self._rules = folder / "rules.yaml"
        self._folder = folder
        self._draw = draw
        self._config = stack.run_dir / "router" / "router.yaml"
        self._engine = SimulatedEngine(stack, "b")
        self._pids: dict[str, int] = {}

    def kinds(self) -> dict[str, Callable[[], list[Expected]]]:
        """Return every injection by its name."""
        return {
            "rules": self.rules,
            "harmless configuration": self.harmless_configuration,
            "pool members": self.members,
            "engine killed": self.engine_killed,
            "engine version, model file and image": self.engine_replaced,
            "breaker": self.breaker,
            "drain": self.drain,
            "affinity store": self.affinity_store,
            "alert": self.alert,
            "edge keys": self.edge_keys,
            "edge restarted": self.edge_restarted,
        }

    def pause(self, least: float, most: float) -> None:
        """Wait for a random time, so that injections are not in step with scrapes."""
        time.sleep(self._draw.uniform(least, most))

    def rules(self) -> list[Expected]:
        number = self._draw.randrange(1000)
        before = self._rules.read_text()
        changed = {"name": "long", "when": {"max_tokens_gte": 901 + number}, "route_to": "general"}
        added = {"name": f"new-{number}", "when": {"max_tokens_gte": 600}, "route_to": "general"}
        at = self._write(self._rules, yaml.safe_dump({"rules": [changed, RULES[2], added]}))
        self.pause(6, 12)
        back = self._write(self._rules, before)
        moved = "router configuration [0-9a-f]+ -> [0-9a-f]+, rules "
        return [
            Expected(f"{moved}added new-{number}; removed old; changed long", at),
            Expected(f"{moved}added old; removed new-{number}; changed long", back),
        ]

    def harmless_configuration(self) -> list[Expected]:
        ring = 1000 + self._draw.randrange(1000)
        at = self._reconfigure(lambda document: document.update(decisions={"ring": ring}))
        return [Expected("router configuration .*, no rule added, removed or changed", at)]

    def members(self) -> list[Expected]:
        kept: dict[str, Any] = {}

        def leave(document: dict[str, Any]) -> None:
            kept.update(document["pools"]["general"]["backends"])
            del document["pools"]["general"]["backends"]["backend-b"]

        def join(document: dict[str, Any]) -> None:
            document["pools"]["general"]["backends"] = kept

        left = self._reconfigure(leave)
        self.pause(6, 12)
        joined = self._reconfigure(join)
        return [Expected("backend backend-b left", left), Expected("backend backend-b joined", joined)]

    def engine_killed(self) -> list[Expected]:
        at = self._kill("backend-b")
        eventually(lambda: not self._answers("ENGINE_B_PORT", "/health"), "the engine is gone", 5)
        back = self._wait_for("ENGINE_B_PORT", "/health")
        self._wait_for("AGENT_B_PORT", "/readyz")
        return [
            Expected("backend-b is unreachable", at),
            Expected("engine of backend-b started again: its process had ended", back),
        ]

    def engine_replaced(self) -> list[Expected]:
        number = self._draw.randrange(1000)
        model = self._folder / f"model-{number}.yaml"
        source = ROOT / "services/inference-backend/models/smollm2-135m-instruct.yaml"
        model.write_text(re.sub(r"max_num_seqs: \d+", f"max_num_seqs: {64 + number}", source.read_text()))
        version, image = f"0.33.{number}", f"registry.example/engine:{number}"
        with (
            self._arguments("backend-b", "--engine-version", version),
            self._arguments("agent-b", "--engine-image", image, "--model-file", str(model)),
        ):
            self._kill("backend-b")
            self._kill("agent-b")
            at = eventually(
                lambda: f'image="{image}"' in self._text("AGENT_B_PORT", "/metrics") and time.time(),
                "the agent reports the new image",
            )
            self._wait_for("AGENT_B_PORT", "/readyz")
        return [
            Expected(f"engine version of backend-b .* -> {re.escape(version)}", at),
            Expected("model file of backend-b [0-9a-f]+ -> [0-9a-f]+", at),
            Expected(f"engine image of backend-b .* -> {re.escape(image)}", at),
        ]

    def breaker(self) -> list[Expected]:
        def is_open() -> bool:
            found = json.loads(self._text("ROUTER_PORT", "/debug/backends"))["backends"]
            return any(one["name"] == "backend-b" and one["breaker_open"] for one in found)

        if is_open():  # by an earlier injection; the watcher takes two openings within 8 s for one
            eventually(lambda: not is_open(), "the breaker is closed")
            self.pause(8, 12)
        with self._engine.fault("http_error", status=503):
            opened = eventually(lambda: is_open() and time.time(), "the breaker opens")
            self.pause(6, 9)
        closed = eventually(lambda: not is_open() and time.time(), "the breaker closes")
        # An open breaker that is tried again opens again; only its last closing is final.
        return [
            Expected("breaker of backend-b opened", opened),
            Expected("breaker of backend-b closed", closed),
        ]

    def drain(self) -> list[Expected]:
        httpx.post(self.stack.url("AGENT_B_PORT", "/drain"), timeout=10).raise_for_status()
        at = time.time()
        self.pause(6, 10)
        self._kill("agent-b")
        # On a busy machine its successor starts seconds later.
        restarted = self._wait_for("AGENT_B_PORT", "/livez")
        self._wait_for("AGENT_B_PORT", "/readyz")
        return [
            Expected("backend-b is draining", at),
            Expected("agent of backend-b restarted", restarted),
        ]

    def affinity_store(self) -> list[Expected]:
        pid = self._pid("redis")
        os.kill(pid, signal.SIGSTOP)
        try:
            lost = time.time()
            self.pause(11, 15)
        finally:
            os.kill(pid, signal.SIGCONT)
        back = time.time()
        return [Expected("affinity store lost", lost), Expected("affinity store back", back)]

    def alert(self) -> list[Expected]:
        def fires() -> bool:
            found = json.loads(self._text("PROMETHEUS_PORT", "/api/v1/alerts"))["data"]["alerts"]
            return any(
                one["labels"]["alertname"] == "BackendStuck" and one["state"] == "firing" for one in found
            )

        def learnt() -> bool:
            return bool(json.loads(self._text("AGENT_B_PORT", "/status"))["baseline"]["busy"])

        # An agent that has restarted tells a stuck engine from a busy one once it has seen its device at work.
        eventually(learnt, "the agent knows the device at work", 120)
        with self._engine.fault("wedge"):
            began = eventually(lambda: fires() and time.time(), "the alert fires", 90)
            self.pause(4, 8)
        ended = eventually(lambda: not fires() and time.time(), "the alert ends", 90)
        self._wait_for("AGENT_B_PORT", "/readyz")
        words = r"alert BackendStuck \(backend-b\)"
        return [Expected(f"{words} began", began), Expected(f"{words} ended", ended)]

    def edge_keys(self) -> list[Expected]:
        path = self.stack.run_dir / "edge" / "keys.yaml"
        document = yaml.safe_load(path.read_text())
        number = self._draw.randrange(1000)
        document["clients"][f"team-{number}"] = [f"sk-of-a-test-{number:016d}"]
        at = self._write(path, yaml.safe_dump(document), 0o600)
        return [Expected(r"edge routes changed \(keys, clients or rates\)", at)]

    def edge_restarted(self) -> list[Expected]:
        self._kill("edge")
        # Envoy starts some seconds after its predecessor has ended: the files are checked first.
        at = self._wait_for("EDGE_PORT", "/healthz")
        return [Expected("edge-gateway of .* restarted", at)]

    def _reconfigure(self, change: Callable[[dict[str, Any]], None]) -> float:
        document = yaml.safe_load(self._config.read_text())
        change(document)
        return self._write(self._config, yaml.safe_dump(document, sort_keys=False))

    def _write(self, path: Path, text: str, mode: int = 0o644) -> float:
        """Replace a file at once, as an editor or Kubernetes does; return the time."""
        new = path.with_suffix(".new")
        new.write_text(text)
        new.chmod(mode)
        new.replace(path)
        return time.time()

    def _pid(self, part: str) -> int:
        return pid_of(self.stack, part)

    def _kill(self, part: str) -> float:
        pid = self._pid(part)
        os.kill(pid, signal.SIGKILL)
        return time.time()

    @contextlib.contextmanager
    def _arguments(self, part: str, *more: str) -> Iterator[None]:
        """Give a part more arguments at its next starts, until it is started again without them."""
        path = self.stack.run_dir / "parts" / f"{part}.json"
        before = path.read_text()
        spec = json.loads(before)
        spec["command"] += more
        path.write_text(json.dumps(spec))
        try:
            yield
        finally:
            path.write_text(before)

    def _text(self, port: str, path: str) -> str:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self.stack.url(port, path), timeout=5).text
        return ""

    def _answers(self, port: str, path: str) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self.stack.url(port, path), timeout=5).status_code == 200
        return False

    def _wait_for(self, port: str, path: str) -> float:
        at: float = eventually(lambda: self._answers(port, path) and time.time(), f"{port}{path} answers", 60)
        return at
