"""The whole stack on simulators, with alert times divided by 30 and optional further replicas."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from harness import waiting
from harness.chaos.load import Answer, read_answers, sent_file
from harness.stacks.local import ROOT, UP_SECONDS, Stack, new_stack
from platform_contracts.prometheus import NoAnswer, Prometheus
from platform_tools.local_stack.parts import configured_parts
from platform_tools.local_stack.settings import load_settings
from platform_tools.local_stack.stack import rows
from platform_tools.local_stack.supervision import Supervisor

MODEL = "smollm2-135m-instruct"
TIME_SCALE = 1 / 30
SCRAPE = "1s"
POOL = "general"

# One pool of both engines. The silence timeout is longer than an agent needs to report an engine as stuck, so
# that tests observe both. Every other timeout is short.
ROUTER: dict[str, Any] = {
    "server": {"host": "127.0.0.1", "port": 8000, "settle_seconds": 3.0},
    "pools": {
        POOL: {
            "policy": "least_loaded",
            "models": [MODEL],
            "aliases": {"gpt-small": MODEL},
            "backends": {
                "backend-a": {"url": "http://127.0.0.1:8101", "health_url": "http://127.0.0.1:8111/readyz"},
                "backend-b": {"url": "http://127.0.0.1:8102", "health_url": "http://127.0.0.1:8112/readyz"},
            },
        }
    },
    "routing": {"default_pool": POOL},
    "redis": {"url": "redis://127.0.0.1:6380/0"},
    "timeouts": {"connect_seconds": 1.0, "first_token_seconds": 18, "idle_seconds": 18, "total_seconds": 60},
    "breaker": {"failures": 5, "open_seconds": 2, "slow_start_seconds": 2},
    "health": {"interval_seconds": 0.5},
}
RULES = {
    "rules": [{"name": "resumed", "when": {"header": {"x-resume": "yes"}}, "route_to": POOL, "resume": True}]
}


eventually = partial(waiting.eventually, pause_seconds=0.5)
"""Seconds between polls, so that polling adds little load to the machine."""


@dataclass
class Watch:
    """When each alert and each verdict was first seen, in seconds since the watch began."""

    began: float = field(default_factory=time.monotonic)
    alerts: dict[str, float] = field(default_factory=dict)
    verdicts: dict[str, float] = field(default_factory=dict)

    def first(self, alerts: Collection[str], verdict: str | None) -> float | None:
        """Return when one of these alerts or this verdict first appeared, None if none did."""
        said = [at for name, at in self.alerts.items() if name in alerts]
        said += [at for name, at in self.verdicts.items() if name == verdict]
        return min(said, default=None)

    def blamed(self) -> set[str]:
        """Return every verdict except `none`."""
        return set(self.verdicts) - {"none"}


class Load:
    """A constant load from a separate process; its results can be read while it runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", path: Path) -> None:
        self._process = process
        self._path = path

    def so_far(self) -> list[Answer]:
        return read_answers(self._path)

    def good_since(self, at: float) -> int:
        """Return how many requests sent after epoch time ``at`` have succeeded."""
        return sum(a.ending == "good" and a.sent_at >= at for a in self.so_far())

    def settle(self, requests: int = 30) -> None:
        """Wait until that many requests have ended."""
        eventually(
            lambda: len(self.so_far()) >= requests or self._process.poll() is not None,
            "the load gets responses",
            60,
        )
        assert self._process.poll() is None, f"the load generator ended with {self._process.returncode}"

    def finish(self) -> list[Answer]:
        """Stop sending, wait for the last response, and return all results."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(90)
        assert self._process.returncode == 0, f"the load generator ended with {self._process.returncode}"
        answers = self.so_far()
        assert len(answers) == int(sent_file(self._path).read_text()), "every request has a result"
        return answers


@contextlib.contextmanager
def steady_load(key: str, path: Path, rate: float, tokens: int, *options: str, url: str) -> Iterator[Load]:
    """Send requests at a constant rate until the block ends or ``finish`` is called; results go to ``path``."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "harness.chaos.load", "--model", MODEL),
            *("--url", f"{url}/v1/chat/completions"),
            *("--key", key),
            *("--rate", str(rate), "--tokens", str(tokens), "--out", str(path), *options),
        ],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )
    try:
        yield Load(process, path)
    finally:
        if process.poll() is None:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(60)
            finally:
                process.kill()


class World:
    """One stack, with queries to its components and to the kernel."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.settings = load_settings(ROOT, stack.environment)
        self.supervisor = Supervisor(self.settings)
        self._loads = 0

    # --- what the platform reports

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Query Prometheus; return nothing while it does not respond."""
        with Prometheus(self.stack.url("PROMETHEUS_PORT"), timeout_seconds=5) as prometheus:
            try:
                return prometheus.values(expression)
            except NoAnswer:
                return []

    def verdict(self) -> str:
        """Return the current verdict for the pool, "" if there is none yet."""
        found = self.query(f'pool:bottleneck:verdict{{pool="{POOL}"}} == 1')
        return found[0][0]["verdict"] if found else ""

    def alerts(self) -> set[str]:
        """Return the names of the alerts that are active in Alertmanager."""
        try:
            answer = httpx.get(self.stack.url("ALERTMANAGER_PORT", "/api/v2/alerts"), timeout=5)
        except httpx.TransportError:
            return set()
        return {alert["labels"]["alertname"] for alert in answer.json()}

    def router_metric(self, name: str, **labels: str) -> float:
        """Return the sum of the router's samples of a metric with these labels."""
        total = 0.0
        for line in httpx.get(f"{self.stack.router}/metrics", timeout=10).text.splitlines():
            head, _, value = line.rpartition(" ")
            if head.split("{")[0] == name and all(f'{k}="{v}"' in head for k, v in labels.items()):
                total += float(value)
        return total

    def pid(self, part: str) -> int:
        """Return a part's process id as reported by the supervisor (0: not running)."""
        return self.supervisor.states()[part].pid

    def log(self, part: str) -> str:
        return (self.stack.run_dir / "logs" / f"{part}.jsonl").read_text(errors="replace")

    def ready(self) -> bool:
        """Return whether every part is ready and the router uses both engines."""
        try:
            usable = self.router_metric("router_usable_backends", pool=POOL)
        except httpx.TransportError:
            return False
        parts = configured_parts(self.settings)
        return usable == 2 and all(row.why is None for row in rows(self.settings, parts))

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watch]:
        """Record alerts and verdicts until the block ends."""
        watch, over = Watch(), threading.Event()

        def look() -> None:
            while not over.is_set():
                now = time.monotonic() - watch.began
                with contextlib.suppress(httpx.HTTPError):
                    for name in self.alerts():
                        watch.alerts.setdefault(name, now)
                    if verdict := self.verdict():
                        watch.verdicts.setdefault(verdict, now)
                over.wait(0.5)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield watch
        finally:
            over.set()
            thread.join()

    def quiet(self) -> bool:
        return not self.alerts() and self.verdict() in ("", "none")

    # --- faults and load

    @contextlib.contextmanager
    def under_load(
        self, rate: float, tokens: int = 24, sessions: int = 0, url: str | None = None
    ) -> Iterator[Load]:
        """Send requests at a constant rate until the block ends or ``finish`` is called."""
        self._loads += 1
        path = self.stack.run_dir / f"load-{self._loads}.jsonl"
        options = ("--sessions", str(sessions))
        key = self.stack.client_environment()["OPENAI_API_KEY_LOAD"]
        with steady_load(key, path, rate, tokens, *options, url=url or self.stack.edge) as load:
            yield load

    def rules_at_scale(self, more_targets: Mapping[str, list[str]] | None = None) -> None:
        """Render Prometheus' files with short windows and reload Prometheus.

        ``more_targets`` adds scrape targets to jobs, for replicas outside the local stack.
        """
        out = self.stack.run_dir / "observability"
        done = subprocess.run(
            [
                *(str(ROOT / ".venv" / "bin" / "observability"), "render", "--profile", "local"),
                *("--out", str(out), "--time-scale", str(TIME_SCALE)),
            ],
            env={**os.environ, **self.stack.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        path = out / "prometheus.yml"
        document = yaml.safe_load(path.read_text())
        document["global"].update(scrape_interval=SCRAPE, evaluation_interval=SCRAPE, scrape_timeout=SCRAPE)
        for job in document["scrape_configs"]:
            for target in (more_targets or {}).get(job["job_name"], []):
                job["static_configs"].append({"targets": [target]})
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        httpx.post(self.stack.url("PROMETHEUS_PORT", "/-/reload"), timeout=10).raise_for_status()

    def simulator(self, letter: str, path: str, **body: Any) -> Any:
        """Send a request to an engine simulator's control API: ``state``, or ``faults`` with the fault as keywords."""
        url = self.stack.url(f"ENGINE_{letter.upper()}_PORT", f"/sim/{path}")
        answer = httpx.post(url, json=body, timeout=10) if body else httpx.get(url, timeout=10)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def heal_engine(self, letter: str) -> None:
        httpx.delete(self.stack.url(f"ENGINE_{letter.upper()}_PORT", "/sim/faults"), timeout=10)


@contextlib.contextmanager
def chaos_world(
    folder: Path, simulator_arguments: str = "--step-seconds 0.02", **router_sections: Any
) -> Iterator[World]:
    """Run the stack with this simulator and router until the block ends."""
    config = folder / "router.yaml"
    rules = folder / "rules.yaml"
    rules.write_text(yaml.safe_dump(RULES))
    sections = {**ROUTER, **router_sections, "routing": {**ROUTER["routing"], "rules_file": str(rules)}}
    # One value per line, because the local stack inserts its ports line by line.
    config.write_text(yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=1000))
    run_dir = folder / "run"
    run_dir.mkdir()
    base = new_stack("sim", run_dir)
    stack = Stack(
        {**base.environment, "ROUTER_CONFIG": str(config), "SIMULATOR_ARGUMENTS": simulator_arguments}
    )
    try:
        up = stack.run("start-stack")
        assert up.returncode == 0, f"the stack did not come up:\n{up.stdout}\n{up.stderr}"
        world = World(stack)
        world.rules_at_scale()
        eventually(world.ready, "the whole stack is ready", UP_SECONDS["sim"])
        yield world
    finally:
        down = stack.down()
    assert down.returncode == 0, down.stdout + down.stderr
