"""A guarded rollout on real sockets: two engines, a router, and a controller that takes a worse pool back."""

import contextlib
import itertools
import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.processes import running
from harness.servers.router_fleet import BIN, MODEL, Fleet, RouterPart, fleet_in
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.timeout(400)]

PATIENT = {"connect_seconds": 5, "first_token_seconds": 30, "idle_seconds": 30, "total_seconds": 60}
LONG = 120.0
"""Seconds that a step may take on a busy machine."""

CANARY = "canary-6621"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as fleet:
        yield fleet


def add_router(fleet: Fleet) -> RouterPart:
    rollout = {
        "to": "next", "steps": [30, 60], "window_seconds": 2, "min_requests": 30,
        "objectives": {"ttft_p50": 3, "errors": 0.1},
    }  # fmt: skip
    rule = {"name": "all", "when": {}, "route_to": "live", "rollout": rollout}
    (fleet.folder / "rules.yaml").write_text(yaml.safe_dump({"rules": [rule]}))
    pools = {
        name: {"models": [MODEL], "backends": {name: {"url": engine.url}}}
        for name, engine in fleet.engines.items()
    }
    routing = {"default_pool": "live", "rules_file": "rules.yaml", "weights_file": "weights.yaml"}
    router = fleet.add_router(wait_usable=0, pools=pools, routing=routing, timeouts=PATIENT)
    eventually(lambda: router.usable("live") == router.usable("next") == 1, "both pools are usable")
    return router


@contextlib.contextmanager
def load(router: RouterPart) -> Iterator[None]:
    """Send streamed requests with canaries, six at a time, until the block ends."""
    ended = threading.Event()
    messages = [{"role": "user", "content": f"Tell me about {CANARY}."}]
    numbers = itertools.count()

    def client() -> None:
        while not ended.is_set():
            # A session stays in its pool, so each request has a new one.
            session = f"{CANARY}-{next(numbers)}"
            headers = {"x-session-id": session, "authorization": f"Bearer sk-{CANARY}"}
            router.post(stream=True, messages=messages, headers=headers)

    with ThreadPoolExecutor(6) as pool:
        for _ in range(6):
            pool.submit(client)
        try:
            yield
        finally:
            ended.set()


def entry(fleet: Fleet) -> dict[str, Any]:
    path = fleet.folder / "weights.yaml"
    if not path.exists():
        return {}
    found: dict[str, Any] = yaml.safe_load(path.read_text())["rollouts"]["all"]
    return found


def lines(path: Path, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def percent(router: RouterPart) -> float:
    return router.metric("router_rollout_percent", rule="all", pool="next")


def test_a_good_pool_advances_and_goes_back_when_it_gets_worse(fleet: Fleet) -> None:
    fleet.add_engine("live")
    worse = fleet.add_engine("next")
    router = add_router(fleet)
    assert percent(router) == 0
    assert router.metric("router_rollout_state", rule="all", state="not_started") == 1
    config, log = router.command[-1], fleet.folder / "controller.jsonl"
    command = [BIN / "router-service", "rollout", "run", "--config", config]
    with load(router):
        with running(command, log=log, ready=lambda: bool(entry(fleet))):
            eventually(lambda: percent(router) >= 60, "the good pool advances", seconds=LONG)
            # Not longer: the clients wait for their answers, and a window needs 20 requests of each pool.
            worse.fault("long_prefill", seconds=0.3)
            eventually(lambda: entry(fleet)["state"] == "went_back", "it goes back", seconds=LONG)
            came_from, now = _back(log)
            eventually(lambda: percent(router) == entry(fleet)["percent"], "the router obeys", seconds=LONG)
            assert now < came_from
            status = _rollout("status", "--config", config)
            assert "went_back" in status.stdout, status.stderr
            assert CANARY not in status.stdout + (fleet.folder / "weights.yaml").read_text()
        # The router keeps the share without a controller, and with a file that it cannot use.
        kept = percent(router)
        (fleet.folder / "weights.yaml").write_text("rollouts: {all: {to: next, percent: 700}}\n")
        eventually(lambda: router.metric("router_config_last_reload_successful") == 0, "the file is refused")
        assert percent(router) == kept
    _is_recorded(router, log, fleet)


def _back(log: Path) -> tuple[float, float]:
    back = next(line for line in lines(log, "rollout_decided") if line["step"]["action"] == "back")
    assert back["level"] == "warning"
    assert back["step"]["reason"] == "ttft_p50"
    return back["state"]["percent"], back["step"]["percent"]


def _is_recorded(router: RouterPart, log: Path, fleet: Fleet) -> None:
    changes = [line for line in lines(router.log, "change") if line["kind"] == "rollout"]
    steps = [(float(line["before"]), float(line["after"])) for line in changes]
    assert steps[0] == (0, 30)
    assert all(before == after for (_, before), (after, _) in itertools.pairwise(steps))
    assert any(after < before for before, after in steps), "the step back is a change"
    assert all((line["rule"], line["pool"]) == ("all", "next") for line in changes)
    recent = httpx.get(f"{router.url}/debug/decisions", params={"rule": "all", "limit": 50}).json()
    assert {one["rollout"]["to"] for one in recent["decisions"]} == {"next"}
    refused = lines(router.log, "config_refused")
    assert any("weights.yaml:1:" in problem for line in refused for problem in line["problems"])
    again = _rollout("replay", log)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.endswith(" steps, 0 different\n")
    shown = [again.stdout, log.read_text(), router.log.read_text(), json.dumps(recent)]
    assert not [text for text in shown if CANARY in text]


def _rollout(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "router-service", "rollout", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)
