"""Time to first token of one class, alone and beside a flood of another one at three times the capacity.

Run from the checkout: `PYTHONPATH=tests .venv/bin/python services/router-service/benchmarks/class_flood.py`. Router and two
engine simulators are real processes. Phases with and without the flood alternate; the run repeats without classes.
"""

import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from harness.servers.router_fleet import MODEL, RouterPart, fleet_in

SLOTS, ROUNDS, REQUESTS = 16, 6, 25
CLASSES = {
    "interactive": {"share": 0.4, "service_tiers": ["priority"]},
    "batch": {"share": 0.4, "clients": ["nightly-*"]},
}


class Flood:
    """Clients that send long requests while ``on`` is set, three for each slot."""

    def __init__(self, url: str) -> None:
        self.on, self.ended = threading.Event(), threading.Event()
        self.statuses: Counter[int] = Counter()
        self._url = url + "/v1/chat/completions"
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(3 * SLOTS)]
        for thread in self._threads:
            thread.start()

    def _send(self, number: int) -> None:
        headers = {"x-client-id": f"nightly-{number % 4}"}
        with httpx.Client(timeout=60) as client:
            while not self.ended.is_set():
                if self.on.wait(0.1):
                    status = client.post(self._url, json=body(max_tokens=30), headers=headers).status_code
                    self.statuses[status] += 1
                    if status != 200:
                        time.sleep(0.3)

    def end(self) -> None:
        self.ended.set()
        for thread in self._threads:
            thread.join()


def body(**fields: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "ignore_eos": True,
        **fields,
    }


def interactive(router: RouterPart, client: httpx.Client) -> tuple[float, float]:
    """Return time to first token and the router's queue of one request, in ms; infinite if it is refused."""
    answer = client.post(
        router.url + "/v1/chat/completions",
        json=body(max_tokens=3, stream=True, service_tier="priority"),
        headers={"x-client-id": "web"},
    )
    if answer.status_code != 200:
        return float("inf"), float("inf")
    record = router.record(answer.headers["x-request-id"])
    return record["first_token_ms"], record["ttft_ledger_ms"]["router_queue"]


def p95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95) - 1]


def run(classes: dict[str, Any]) -> None:
    with fleet_in(Path(tempfile.mkdtemp())) as fleet:
        engines = {name: {"url": fleet.add_engine(name).url} for name in ("engine-a", "engine-b")}
        router = fleet.add_router(
            wait_usable=2,
            pools={"general": {"models": [MODEL], "backends": engines}},
            routing={"default_pool": "general"},
            limits={"max_in_flight_per_backend": SLOTS // 2, "queue_size": 2 * SLOTS, "queue_seconds": 10},
            classes=classes,
        )
        found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        flood = Flood(router.url)
        try:
            with httpx.Client(timeout=60) as client:
                for number in range(ROUNDS):
                    flooded = number % 2 == 1
                    (flood.on.set if flooded else flood.on.clear)()
                    time.sleep(2)
                    for _ in range(REQUESTS):
                        found[flooded].append(interactive(router, client))
                        time.sleep(0.05)
        finally:
            flood.end()
    alone, beside = (p95([first for first, _ in found[flooded]]) for flooded in (False, True))
    queued = p95([queue for _, queue in found[True]])
    print(
        f"{'with' if classes else 'without'} classes: p95 first token alone {alone:.1f} ms, beside the flood "
        f"{beside:.1f} ms ({beside / alone:.2f} times), p95 router queue {queued:.1f} ms; flood {dict(flood.statuses)}"
    )


if __name__ == "__main__":
    run({})
    run(CLASSES)
