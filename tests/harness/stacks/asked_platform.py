"""The observable state of a running stack: PromQL, verdict, alerts and `why-ttft`; and the measured load."""

import json
import subprocess
import time
from typing import Any

import httpx

from harness.clients.stopwatch import Stopwatch
from harness.stacks.faults import MODEL, SimulatedEngine
from harness.stacks.local import ROOT, Stack
from harness.waiting import eventually
from platform_contracts.prometheus import Prometheus

POOL = "general"


class Platform:
    """A running stack with its Prometheus and the measured load."""

    def __init__(self, stack: Stack, stopwatch: Stopwatch) -> None:
        self.stack = stack
        self.stopwatch = stopwatch
        self.engines = {letter: SimulatedEngine(stack, letter) for letter in "ab"}
        self._prometheus = Prometheus(stack.url("PROMETHEUS_PORT"), timeout_seconds=20)

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Evaluate PromQL now or at an epoch time."""
        return self._prometheus.values(expression, at)

    def scrape_after(self, moment: float) -> float:
        """Wait for the router's first scrape at or after an epoch time; return when it was."""

        def found() -> float | None:
            times = [value for _, value in self.query("max(timestamp(router_config_info))")]
            return times[0] if times and times[0] >= moment else None

        time.sleep(max(0.0, moment - time.time()))
        at: float = eventually(found, "the router is scraped", 60)
        return at

    def verdict(self) -> str:
        """Return the pool's current verdict, "" if there is none."""
        found = self.query(f'pool:bottleneck:verdict{{pool="{POOL}"}} == 1')
        return found[0][0]["verdict"] if len(found) == 1 else ""

    def firing(self) -> set[str]:
        """Return the names of the firing alerts."""
        return {labels["alertname"] for labels, _ in self.query('ALERTS{alertstate="firing"}')}

    def why(
        self,
        before: tuple[float, float],
        after: tuple[float, float],
        about: str = "mean time to first token",
    ) -> dict[str, Any]:
        """Run `scripts/why-ttft` for two time ranges; return its result for one mean of all requests."""
        window = after[1] - after[0]
        command = [
            *(str(ROOT / "scripts" / "why-ttft"), "--json"),
            *("--prometheus", self.stack.url("PROMETHEUS_PORT"), "--until", f"{after[1] + 0.001:.3f}"),
            *("--window", f"{window:.3f}s", "--baseline", f"{before[1] - before[0]:.3f}s"),
            *("--baseline-ago", f"{after[0] - before[1]:.3f}s"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)[about]
        return answer

    def close(self) -> None:
        self._prometheus.close()


def ask_once(stack: Stack, content: str, session: str = "") -> None:
    """Send one unstreamed request through the edge.

    Raises:
        httpx.HTTPStatusError: its status is not 200.
    """
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 2,
        "stream": False,
    }
    headers = {"authorization": f"Bearer {load_key(stack)}"}
    if session:
        headers["x-session-id"] = session
    httpx.post(f"{stack.edge}/v1/chat/completions", json=body, headers=headers, timeout=60).raise_for_status()


def load_key(stack: Stack) -> str:
    """Return the key of the client without limits."""
    return stack.client_environment()["OPENAI_API_KEY_LOAD"]
