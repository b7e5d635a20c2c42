"""A stack for attacks: edge, router, engine simulators, rate limit service and Redis, all real, and a second client.

Settings are the defaults as shipped, except where a comment names a reason. Must not know any attack.
"""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import trustme
import yaml

from harness.chaos.load import Answer
from harness.chaos.world import Load
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.edges import (
    CHAT,
    WIDE,
    Edge,
    merged,
    running_edge,
    running_rate_limit_service,
    running_redis,
)
from harness.servers.span_collector import SpanReceiver
from harness.stacks.local import ROOT
from harness.waiting import eventually

MODEL = "m"
MIB = 1024 * 1024
BUDGET = 60_000
DAILY_BUDGET = 1_000_000_000
WINDOW_BUDGET = 4_000
ASSUMED_TOKENS = 400
NEIGHBOUR_RATE = 6.0
NEIGHBOUR_TOKENS = 20
ENGINE_SLOTS = 20

KEYS = {
    "neighbour": ["sk-hostile-neighbour-0123456789abcdef"],
    "attacker": ["sk-hostile-attacker-0123456789abcdef"],
    "fast": ["sk-hostile-fast-0123456789abcdef0123"],
    "metered": ["sk-hostile-metered-0123456789abcdef01"],
    "daily": ["sk-hostile-daily-0123456789abcdef012"],
    "windowed": ["sk-hostile-windowed-0123456789abcdef0"],
    "bystander": ["sk-hostile-bystander-0123456789abcdef"],
}
"""`attacker` has the default rate of a client, `fast` and `bystander` none, `metered` a token budget of a minute, `daily`
and `windowed` one of a day, which is counted exactly.
"""

ALONE_REQUESTS = 24
FULL = os.environ.get("FULL") == "1"
ATTACK_SECONDS = 60.0 if FULL else 5.0


@dataclass(frozen=True)
class Attacked:
    """The running stack."""

    edge: Edge
    router: str
    router_pid: int
    router_log: Path
    engines: tuple[str, ...]
    budget_metrics: int
    redis_port: int
    directory: Path

    def headers(self, client: str) -> dict[str, str]:
        """Return the headers of a proper request of ``client``."""
        return self.edge.headers(KEYS[client][0])

    def post(self, client: str, body: Any, path: str = CHAT, **more: str) -> httpx.Response:
        """POST like a proper client, through the edge."""
        return self.edge.post(body, path, KEYS[client][0], **more)

    def edge_bytes(self) -> int:
        """Return the edge's resident memory."""
        return resident_bytes(self.edge.process.pid)

    def router_bytes(self) -> int:
        """Return the router's resident memory."""
        return resident_bytes(self.router_pid)

    def router_metric(self, name: str, *labels: str) -> float:
        """Return the sum of the router's series ``name`` whose labels contain all of ``labels``."""
        return _sum(f"{self.router}/metrics", name, *labels)

    def budget_metric(self, name: str, *labels: str) -> float:
        """Return the sum of the rate limit service's series ``name`` whose labels contain all of ``labels``."""
        return _sum(f"http://127.0.0.1:{self.budget_metrics}/metrics", name, *labels)

    def record(self, request_id: str) -> dict[str, Any]:
        """Return the decision record of a request that ends soon."""

        def found() -> dict[str, Any] | None:
            answer = httpx.get(f"{self.router}/debug/decisions/{request_id}")
            return answer.json() if answer.status_code == 200 and answer.json().get("outcome") else None

        document: dict[str, Any] = eventually(found, "the request ended")
        return document

    def spent(self, client: str = "metered") -> float:
        """Return the tokens that a client's bucket lacked when it was last changed."""
        level = self.redis("hget", f"edge:{{{client}}}:tokens", "level")
        return BUDGET - float(level or BUDGET)

    def spent_today(self, client: str = "daily") -> int:
        """Return the tokens that a client's counter of the day has."""
        return int(self.redis("hget", f"edge:{{{client}}}:day", "used") or 0)

    def redis(self, *command: str) -> str:
        """Run a command of redis-cli and return its output."""
        asked = ["redis-cli", "-p", str(self.redis_port), *command]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _sum(url: str, name: str, *labels: str) -> float:
    lines = (line for line in httpx.get(url, timeout=10).text.splitlines() if re.match(rf"{name}[{{ ]", line))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))


@contextlib.contextmanager
def attacked_stack(directory: Path, spans: SpanReceiver | None = None) -> Iterator[Attacked]:
    """Run the stack until the block ends. Every span of the edge and the router goes to ``spans``."""
    engines = [free_port(), free_port()]
    router, binaries = free_port(), Path(sys.executable).parent
    limits = {
        "default": {"requests_per_second": 20.0, "burst": 40},
        "clients": {
            "neighbour": WIDE,
            "fast": WIDE,
            "metered": {**WIDE, "tokens_per_minute": BUDGET},
            "daily": {**WIDE, "tokens_per_day": DAILY_BUDGET},
            "windowed": {**WIDE, "tokens_per_day": WINDOW_BUDGET},
            "bystander": WIDE,
        },
    }
    # The engines' model has 2,048 tokens: a shorter assumed completion shows that it limits an answer.
    budgets_section = {"timeout_seconds": 2.0, "assumed_max_tokens": ASSUMED_TOKENS}
    settings: dict[str, Any] = {"limits": limits, "budgets": budgets_section}
    if spans:
        collector = {"host": "127.0.0.1", "port": spans.grpc_port}
        settings["tracing"] = {"sample_ratio": 1.0, "collector": collector}
    file = directory / "router.yaml"
    (directory / "rules.yaml").write_text(yaml.safe_dump({"rules": _RULES}))
    with contextlib.ExitStack() as stack:
        for port in engines:
            simulator: list[str | os.PathLike[str]] = [
                *(binaries / "engine-simulator", "serve", "--port", str(port), "--model", MODEL),
                # Little depends on how many others an engine works for: the platform's own share is measured.
                *("--step-seconds", "0.01", "--step-seconds-per-sequence", "0"),
            ]
            ready = answers(f"http://127.0.0.1:{port}/health")
            stack.enter_context(running(simulator, log=directory / f"engine-{port}.log", ready=ready))
        redis_port = stack.enter_context(running_redis(directory / "redis"))
        budgets, metrics = stack.enter_context(running_rate_limit_service(directory, settings, redis_port))
        configuration = _router_configuration(router, engines, budgets)
        if spans:
            configuration["telemetry"] = {"otlp_endpoint": f"http://127.0.0.1:{spans.http_port}"}
        file.write_text(yaml.safe_dump(configuration))
        process = stack.enter_context(
            running(
                [binaries / "router-service", "serve", "--config", file],
                log=directory / "router.log",
                ready=answers(f"http://127.0.0.1:{router}/readyz"),
            )
        )
        settings = merged(settings, {"budgets": {"port": budgets}})
        edge = stack.enter_context(running_edge(directory / "edge", router, settings, KEYS))
        yield Attacked(
            edge,
            f"http://127.0.0.1:{router}",
            process.pid,
            directory / "router.log",
            tuple(f"http://127.0.0.1:{port}" for port in engines),
            metrics,
            redis_port,
            directory,
        )


@contextlib.contextmanager
def with_tls(stack: Attacked, directory: Path) -> Iterator[Attacked]:
    """Run a second edge in front of the stack's router until the block ends; return the stack with it.

    It has TLS and no limits of clients.
    """
    authority, issued = trustme.CA(), directory / "edge"
    issued.mkdir(parents=True)
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(str(issued / "tls.key"))
    certificate.cert_chain_pems[0].write_to_path(str(issued / "tls.crt"))
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    tls = {"certificate_file": str(issued / "tls.crt"), "private_key_file": str(issued / "tls.key")}
    with running_edge(issued, int(stack.router.rpartition(":")[2]), {"tls": tls}, KEYS) as edge:
        yield replace(stack, edge=replace(edge, ca_file=directory / "ca.pem"))


_RULES = [{"name": "long_answers", "when": {"max_tokens_gte": 800}, "route_to": "long"}]


def _router_configuration(port: int, engines: list[int], budgets: int) -> dict[str, Any]:
    backends = {f"backend-{number}": {"url": f"http://127.0.0.1:{at}"} for number, at in enumerate(engines)}
    one = {"policy": "least_loaded", "models": [MODEL]}
    return {
        "server": {"host": "127.0.0.1", "port": port},
        "pools": {
            "general": {**one, "backends": backends},
            "long": {**one, "backends": {"backend-long": backends["backend-0"]}},
        },
        "routing": {"default_pool": "general", "rules_file": "rules.yaml"},
        # Few slots, so that one client can try to take all of them.
        "limits": {"max_in_flight_per_backend": ENGINE_SLOTS, "queue_size": 64, "queue_seconds": 5},
        "budgets": {"address": f"127.0.0.1:{budgets}"},
    }


@dataclass
class Neighbour:
    """A second client that sends streams at a constant rate in a separate process.

    ``figures`` are filled in at the end: its success rate and 95th percentile alone and under the attack.
    """

    load: Load
    attack_began: float
    figures: dict[str, float] = field(default_factory=dict)

    def answered(self) -> int:
        """Return how many of its requests sent since the attack began have ended."""
        return sum(answer.sent_at >= self.attack_began for answer in self.load.so_far())


@contextlib.contextmanager
def unharmed_neighbour(stack: Attacked, name: str) -> Iterator[Neighbour]:
    """Measure a second client alone, then during the block.

    Raises:
        AssertionError: fewer than 99 % of its requests succeeded, or its 95th percentile more than doubled.
    """
    with served_neighbour(stack, name) as neighbour:
        yield neighbour
    assert neighbour.figures["p95_attacked"] <= 2 * neighbour.figures["p95_alone"], neighbour.figures


@contextlib.contextmanager
def served_neighbour(
    stack: Attacked, name: str, client: str = "neighbour", alone: int = ALONE_REQUESTS
) -> Iterator[Neighbour]:
    """Measure a second client for ``alone`` requests alone, then during the block.

    Raises:
        AssertionError: fewer than 99 % of its requests succeeded.
    """
    path = stack.directory / f"{client}-{re.sub('[^a-z0-9]+', '-', name.lower())}-{time.monotonic_ns()}.jsonl"
    trust = {} if stack.edge.ca_file is None else {"SSL_CERT_FILE": str(stack.edge.ca_file)}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "harness.chaos.load", "--model", MODEL),
            *("--url", stack.edge.url + CHAT, "--key", KEYS[client][0], "--out", str(path)),
            *("--rate", str(NEIGHBOUR_RATE), "--tokens", str(NEIGHBOUR_TOKENS)),
        ],
        stdin=subprocess.PIPE,
        env={**os.environ, **trust, "PYTHONPATH": str(ROOT / "tests")},
    )
    load = Load(process, path)
    try:
        load.settle(alone)
        neighbour = Neighbour(load, time.time())
        yield neighbour
        attack_ended = time.time()
        found = load.finish()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    alone_answers = [answer for answer in found if answer.ended_at < neighbour.attack_began]
    during = [answer for answer in found if neighbour.attack_began <= answer.sent_at <= attack_ended]
    failures = [(answer.ending, answer.status, answer.detail) for answer in during if answer.ending != "good"]
    neighbour.figures.update(_figures(alone_answers, during), failed=len(failures))
    print(f"{name}: {json.dumps(neighbour.figures)}")
    assert len(during) >= NEIGHBOUR_RATE * 2, f"the neighbour sent only {len(during)} requests meanwhile"
    assert len(failures) <= len(during) / 100, failures[:5]


def _figures(alone: list[Answer], during: list[Answer]) -> dict[str, float]:
    return {
        "requests_alone": len(alone),
        "p95_alone": p95([answer.total_seconds for answer in alone]),
        "requests_attacked": len(during),
        "p95_attacked": p95([answer.total_seconds for answer in during]),
    }


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]
