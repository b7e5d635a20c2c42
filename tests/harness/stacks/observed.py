"""A stack for tests of signals: rule times divided by 30, spans collected, mixed traffic sent."""

import contextlib
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from harness.clients.stopwatch import Ask, Stopwatch, varied_prompts
from harness.servers.span_collector import SpanReceiver
from harness.stacks.asked_platform import Platform, load_key
from harness.stacks.cause_matrix import ROUTER_CONFIG, TIME_SCALE
from harness.stacks.faults import MODEL
from harness.stacks.local import ROOT, Stack, running_stack

TRAFFIC_SECONDS = 32.0


@dataclass(frozen=True)
class Observed:
    """The stack, its Prometheus, and the spans it has sent."""

    stack: Stack
    platform: Platform
    spans: SpanReceiver
    traffic_from: float

    def wait_for_history(self) -> None:
        """Wait until the traffic has lasted `TRAFFIC_SECONDS`, so that the windows of queries contain some."""
        time.sleep(max(0.0, self.traffic_from + TRAFFIC_SECONDS - time.monotonic()))

    def ask(self, content: str, *, stream: bool = True, **headers: str) -> httpx.Response:
        """Send one chat completion through the edge."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 4,
            "stream": stream,
        }
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(
            f"{self.stack.edge}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {load_key(self.stack)}", **named},
            timeout=60,
        )


@contextlib.contextmanager
def observed(folder: Path) -> Iterator[Observed]:
    """Run the stack until the block ends."""
    with SpanReceiver() as spans:
        config = folder / "router.yaml"
        config.write_text(
            ROUTER_CONFIG.rstrip().removesuffix("}")
            + f', otlp_endpoint: "http://127.0.0.1:{spans.http_port}"}}\n'
        )
        edge = yaml.safe_load((ROOT / "services/edge-gateway/envoy/local.yaml").read_text())
        edge["tracing"] = {"sample_ratio": 1.0, "collector": {"host": "127.0.0.1", "port": spans.grpc_port}}
        settings = folder / "edge.yaml"
        settings.write_text(yaml.safe_dump(edge))
        variables = {
            "ROUTER_CONFIG": str(config),
            "EDGE_SETTINGS": str(settings),
            "OBSERVABILITY_TIME_SCALE": f"{TIME_SCALE:.5f}",
            "SIMULATOR_ARGUMENTS": f"--otlp-traces-endpoint http://127.0.0.1:{spans.http_port}/v1/traces",
        }
        with running_stack("sim", folder / "run", **variables) as stack:
            asks = _mixed(random.Random(1))
            port = int(stack.environment["EDGE_PORT"])
            with Stopwatch(port, load_key(stack), MODEL, 8.0, lambda: next(asks), 1) as stopwatch:
                platform = Platform(stack, stopwatch)
                time.sleep(3)
                _failures(platform)
                yield Observed(stack, platform, spans, time.monotonic())
                platform.close()


def _mixed(draw: random.Random) -> Iterator[Ask]:
    """Send short prompts, sessions, thoughts, and a few requests whose first token is late."""
    short, long = varied_prompts(60, 1), varied_prompts(3000, 2)
    for number in itertools.count():
        session = {"x-session-id": f"s{draw.randrange(5)}"} if number % 3 == 0 else {}
        thinks = {"chat_template_kwargs": {"enable_thinking": True}} if number % 10 == 5 else {}
        yield Ask(long() if number % 40 == 20 else short(), session, more=thinks)


def _failures(platform: Platform) -> None:
    """Cause a few requests that fail and a few that are retried."""
    for status in (500, 503):
        body: dict[str, Any] = {"kind": "http_error", "status": status, "count": 2}
        httpx.post(
            f"{platform.engines['a'].url}/sim/faults", content=json.dumps(body), timeout=10
        ).raise_for_status()
        time.sleep(2)
