"""A running console in front of two routers, two engine simulators and a recorded Prometheus."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.recorded_prometheus import STEP_SECONDS, recorded_prometheus
from harness.servers.router_fleet import BIN, Fleet, fleet_in


@dataclass
class Console:
    """A running console in front of a fleet."""

    url: str
    pid: int
    fleet: Fleet
    prometheus: str

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30)

    def page(self, path: str) -> str:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    def words(self, path: str) -> str:
        """Return a page's text without its tags."""
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", self.page(path)))

    def memory_bytes(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


@contextlib.contextmanager
def running_console(folder: Path) -> Iterator[Console]:
    """Two engines, two routers that know each other, a Prometheus with a change of configuration, a console."""
    (folder / "prometheus").mkdir()
    now = int(time.time()) // STEP_SECONDS * STEP_SECONDS
    series: dict[str, dict[str, list[float | None]]] = {
        "up": {'job="router-service"': [1.0] * 240},
        "router_config_info": {
            'job="router-service",hash="aaaa1111"': [1.0] * 200 + [None] * 40,
            'job="router-service",hash="bbbb2222"': [None] * 200 + [1.0] * 40,
        },
    }
    with (
        fleet_in(folder) as fleet,
        recorded_prometheus(folder / "prometheus", series, now - 1200) as prometheus,
    ):
        fleet.add_engine("one")
        fleet.add_engine("two")
        ports = [free_port() for _ in range(2)]
        rules = {"rules": [{"name": "long", "when": {"max_tokens_gte": 9}, "route_to": "general"}]}
        (fleet.folder / "rules.yaml").write_text(json.dumps(rules))
        more: dict[str, Any] = {
            "peers": {"urls": [f"http://127.0.0.1:{port}" for port in ports]},
            "routing": {"default_pool": "general", "rules_file": "rules.yaml"},
        }
        for port in ports:
            fleet.add_router(port=port, **more)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        routers = [part for router in fleet.routers for part in ("--router", router.url)]
        command: list[str | Path] = [
            *(BIN / "python", "-m", "console.main", "serve"),
            *("--port", str(port), "--prometheus", prometheus, *routers),
        ]
        with running(command, log=fleet.folder / "console.log", ready=answers(f"{url}/healthz")) as process:
            yield Console(url, process.pid, fleet, prometheus)
