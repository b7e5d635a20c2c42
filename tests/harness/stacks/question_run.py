"""The run behind docs/questions: `PYTHONPATH=tests .venv/bin/python -m harness.stacks.question_run FOLDER`.

Starts a simulator stack of one pool at real intervals, injects three faults one after another under six requests a second,
and writes the commands' outputs and the pictures to FOLDER. It takes eleven minutes and asserts nothing: compare its
outputs with the pages before copying them.
"""

import contextlib
import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from harness.browser import opened
from harness.clients.stopwatch import Ask, Stopwatch, varied_prompts
from harness.stacks.asked_platform import Platform, load_key
from harness.stacks.cause_matrix import ROUTER_CONFIG
from harness.stacks.faults import MODEL, DutyCycle, Neighbours, pid_of
from harness.stacks.local import ROOT, Stack, running_stack

FAULT_SECONDS, NOTICED_SECONDS, PAUSE_SECONDS = 110.0, 40.0, 75.0
PANELS = {
    "bottleneck": "Bottleneck of each pool",
    "first-token": "Time to first token",
    "ledger": "Time to first token by component (mean)",
    "requests-by-backend": "Requests by backend",
    "states": "Backend states",
    "tensor": "Utilisation and tensor activity",
}


def printed(*command: str) -> str:
    """Return what a command printed, errors included."""
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


class Run:
    """One stack under load, and the folder of the outputs."""

    def __init__(self, stack: Stack, stopwatch: Stopwatch, folder: Path) -> None:
        self.stack = stack
        self.platform = Platform(stack, stopwatch)
        self.folder = folder
        self.began = time.time()

    def phases(self) -> None:
        """Quiet, more requests than slots, a stuck engine, a blocked router."""
        time.sleep(FAULT_SECONDS)
        self.capture("quiet", FAULT_SECONDS)
        urls = [engine.url for engine in self.platform.engines.values()]
        with Neighbours(urls, 20, 10, "hello there"):
            time.sleep(FAULT_SECONDS)
            self.capture("saturated", FAULT_SECONDS - 15)
        time.sleep(PAUSE_SECONDS)
        with self.platform.engines["b"].fault("wedge"):
            # The window includes the attempts that failed before the router took the engine out of service.
            time.sleep(NOTICED_SECONDS)
            self.capture("stuck", NOTICED_SECONDS)
            self.console(self.slowest(lambda record: len(record["attempts"]) > 1) or self.slowest(bool))
            time.sleep(FAULT_SECONDS - NOTICED_SECONDS)
        time.sleep(PAUSE_SECONDS)
        with DutyCycle(pid_of(self.stack, "router"), 0.3, 0.06, 1):
            time.sleep(FAULT_SECONDS)
            self.capture("blocked", FAULT_SECONDS - 15)
        self.pictures((time.time() - self.began) / 60)

    def capture(self, name: str, window_seconds: float) -> None:
        """Write the outputs of the four pages' commands."""
        prometheus = self.stack.url("PROMETHEUS_PORT")
        queries = ("pool:bottleneck:verdict == 1", "pool:bottleneck_evidence:bool == 1")
        parts = [printed("promtool", "query", "instant", prometheus, query) for query in queries]
        window = f"{window_seconds:.0f}s"
        command = [str(ROOT / "scripts" / "why-ttft"), "--prometheus", prometheus, "--window", window]
        parts.append(printed(*command, "--baseline", "40s", "--baseline-ago", "25s"))
        with contextlib.suppress(httpx.HTTPError):
            parts += [httpx.get(self.stack.url(f"AGENT_{one}_PORT", "/status")).text for one in "AB"]
        explain = str(ROOT / ".venv/bin/router-service")
        for wanted in (
            lambda record: record["reason"] == "session_affinity",
            lambda record: len(record["attempts"]) > 1,
        ):
            if request_id := self.slowest(wanted):
                parts.append(printed(explain, "explain", request_id, "--url", self.stack.router))
        (self.folder / f"{name}.txt").write_text("\n\n".join(parts))

    def slowest(self, wanted: Callable[[dict[str, Any]], bool]) -> str:
        """Return the id of the recent request with the latest first token among the wanted ones, "" if there is none."""
        records: list[dict[str, Any]] = []
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(
                self.stack.url("ROUTER_PORT", "/debug/decisions"), params={"limit": 240}, timeout=20
            )
            records = [one for one in answer.json()["decisions"] if one["first_token_ms"] and wanted(one)]
        return str(max(records, key=lambda one: one["first_token_ms"])["request_id"]) if records else ""

    def console(self, request_id: str) -> None:
        """Take pictures of the console's pages, without that of a request if ``request_id`` is empty."""
        pages = {"now": "/", "why": "/why"} | ({"request": f"/requests/{request_id}"} if request_id else {})
        opened(self.stack.url("CONSOLE_PORT"), pages, pictures=self.folder)

    def pictures(self, minutes: float) -> None:
        """Draw the dashboards' panels over the whole run."""
        for name, title in PANELS.items():
            command = [str(ROOT / "scripts" / "render-dashboards"), "--panel", title]
            command += ["--prometheus", self.stack.url("PROMETHEUS_PORT"), "--minutes", f"{minutes:.1f}"]
            print(printed(*command, "--out", str(self.folder / f"{name}.svg")), end="")


def asks(draw: random.Random) -> Iterator[Ask]:
    """Yield prompts of a hundred words, half of them in one of nine sessions."""
    prompt = varied_prompts(100, 1)
    for number in itertools.count():
        session = {"x-session-id": f"s{draw.randrange(9)}"} if number % 2 else {}
        yield Ask(prompt(), session, max_tokens=12)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "router.yaml"
    config.write_text(ROUTER_CONFIG)
    requests = asks(random.Random(1))
    variables = {"ROUTER_CONFIG": str(config), "SIMULATOR_ARGUMENTS": "--max-num-seqs 8"}
    with running_stack("sim", folder / "run", **variables) as stack:
        port = int(stack.environment["EDGE_PORT"])
        with Stopwatch(port, load_key(stack), MODEL, 6.0, lambda: next(requests), 1) as stopwatch:
            Run(stack, stopwatch, folder).phases()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
