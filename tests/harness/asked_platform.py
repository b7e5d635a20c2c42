"""A running stack as its observers see it: PromQL, verdict, alerts, `why-ttft`; and the load that is measured."""

import json
import subprocess
import time
from typing import Any

import httpx

from harness.stack_faults import SimulatedEngine
from harness.stacks import ROOT, Stack
from harness.stopwatch import Stopwatch
from harness.waiting import eventually

POOL = "general"


class Platform:
    """A running stack with its Prometheus, and the load that is measured."""

    def __init__(self, stack: Stack, stopwatch: Stopwatch) -> None:
        self.stack = stack
        self.stopwatch = stopwatch
        self.engines = {letter: SimulatedEngine(stack, letter) for letter in "ab"}
        self._http = httpx.Client(base_url=stack.url("PROMETHEUS_PORT"), timeout=20, trust_env=False)

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Evaluate PromQL now or at an epoch time."""
        parameters = {"query": expression} if at is None else {"query": expression, "time": f"{at:.3f}"}
        answer = self._http.get("/api/v1/query", params=parameters)
        answer.raise_for_status()
        return [(r["metric"], float(r["value"][1])) for r in answer.json()["data"]["result"]]

    def scrape_after(self, moment: float) -> float:
        """Wait for the router's first scrape at or after an epoch time; return when it was."""

        def found() -> float | None:
            times = [value for _, value in self.query("max(timestamp(router_config_info))")]
            return times[0] if times and times[0] >= moment else None

        time.sleep(max(0.0, moment - time.time()))
        at: float = eventually(found, "the router is scraped", 60)
        return at

    def verdict(self) -> str:
        """Return the pool's verdict now, "" while there is none."""
        found = self.query(f'pool:bottleneck:verdict{{pool="{POOL}"}} == 1')
        return found[0][0]["verdict"] if len(found) == 1 else ""

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {labels["alertname"] for labels, _ in self.query('ALERTS{alertstate="firing"}')}

    def why(self, before: tuple[float, float], after: tuple[float, float]) -> dict[str, Any]:
        """Ask `scripts/why-ttft` about two spans of time; return its answer about all requests."""
        window = after[1] - after[0]
        command = [
            *(str(ROOT / "scripts" / "why-ttft"), "--json"),
            *("--prometheus", self.stack.url("PROMETHEUS_PORT"), "--until", f"{after[1] + 0.001:.3f}"),
            *("--window", f"{window:.3f}s", "--baseline", f"{before[1] - before[0]:.3f}s"),
            *("--baseline-ago", f"{after[0] - before[1]:.3f}s"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)["mean time to first token"]
        return answer

    def close(self) -> None:
        self._http.close()


def load_key(stack: Stack) -> str:
    """Return the key of the client without limits."""
    return stack.client_environment()["OPENAI_API_KEY_LOAD"]
