"""Time to first token of one class, without and beside a flood of another one at three times the capacity.

Run from the checkout: `PYTHONPATH=tests .venv/bin/python services/router-service/benchmarks/class_flood.py [SEED]`. Router
and two engine simulators are real processes. The interactive class sends a Poisson load that needs a quarter of its kept
slots, so that a request seldom finds all of them taken. Phases with and without the flood alternate; the run repeats without
classes, and with a flood of longer prompts.
"""

import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from harness.servers.router_fleet import MODEL, RouterPart, fleet_in

SLOTS, QUEUE_SECONDS = 16, 10
PHASES, PHASE_SECONDS, SETTLE_SECONDS = 6, 10.0, 4.0
RATE, WORDS = 3.0, 100
"""The interactive class: requests a second, words of a prompt. 20 tokens take 0.6 s: 1.8 of 6.4 kept slots."""
SHARE = 0.4
CLASSES = {
    "interactive": {"share": SHARE, "service_tiers": ["priority"]},
    "batch": {"share": SHARE, "clients": ["nightly-*"]},
}


class Load:
    """Both classes against one router."""

    def __init__(self, router: RouterPart, seed: int, flood_words: int) -> None:
        self.flooding, self.ended = threading.Event(), threading.Event()
        self.statuses: Counter[int] = Counter()
        self.longest_seconds = 0.0
        self.batch_slots: list[float] = []
        self._router, self._draws, self._flood_words = router, random.Random(seed), flood_words
        self._threads = [threading.Thread(target=self._flood, args=(n,)) for n in range(3 * SLOTS)]
        for thread in self._threads:
            thread.start()

    def _post(self, client: httpx.Client, name: str, words: int, **fields: Any) -> httpx.Response:
        content = " ".join(str(self._draws.randrange(10**6)) for _ in range(words))
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": content}],
            "ignore_eos": True,
            **fields,
        }
        url = self._router.url + "/v1/chat/completions"
        return client.post(url, json=body, headers={"x-client-id": name})

    def _flood(self, number: int) -> None:
        with httpx.Client(timeout=60) as client:
            while not self.ended.is_set():
                if self.flooding.wait(0.1):
                    answer = self._post(client, f"nightly-{number % 3}", self._flood_words, max_tokens=60)
                    self.statuses[answer.status_code] += 1
                    self.longest_seconds = max(self.longest_seconds, answer.elapsed.total_seconds())
                    if answer.status_code != 200:
                        time.sleep(0.3)

    def interactive(self, client: httpx.Client) -> list[httpx.Response]:
        """Return the answers of one phase, sent at Poisson arrivals."""
        sent, due = [], time.monotonic()
        end = due + PHASE_SECONDS
        fields = {"max_tokens": 20, "stream": True, "service_tier": "priority"}
        with ThreadPoolExecutor(64) as threads:
            while due < end:
                due += self._draws.expovariate(RATE)
                time.sleep(max(0.0, due - time.monotonic()))
                sent.append(threads.submit(self._post, client, "web", WORDS, **fields))
                if self.flooding.is_set():
                    of_batch = {"pool": "general", "class": "batch"}
                    self.batch_slots.append(self._router.metric("router_class_running", **of_batch))
        return [one.result() for one in sent]

    def end(self) -> None:
        self.ended.set()
        for thread in self._threads:
            thread.join()


def p95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95) - 1]


def run(classes: dict[str, Any], seed: int, flood_words: int) -> None:
    """Print one comparison."""
    with fleet_in(Path(tempfile.mkdtemp())) as fleet:
        step = ("--step-seconds", "0.02")
        engines = {name: {"url": fleet.add_engine(name, *step).url} for name in ("engine-a", "engine-b")}
        bounds = {"queue_size": 2 * SLOTS, "queue_seconds": QUEUE_SECONDS}
        router = fleet.add_router(
            wait_usable=2,
            pools={"general": {"models": [MODEL], "backends": engines}},
            routing={"default_pool": "general"},
            limits={"max_in_flight_per_backend": SLOTS // 2, **bounds},
            classes=classes,
        )
        answers: dict[bool, list[httpx.Response]] = {False: [], True: []}
        load = Load(router, seed, flood_words)
        try:
            with httpx.Client(timeout=60) as client:
                for number in range(PHASES):
                    flooded = number % 2 == 1
                    (load.flooding.set if flooded else load.flooding.clear)()
                    time.sleep(SETTLE_SECONDS)
                    answers[flooded] += load.interactive(client)
        finally:
            load.end()
        parts = {flooded: ledgers(router, answers[flooded]) for flooded in answers}
    alone, beside = (parts[flooded].pop("first token") for flooded in (False, True))
    refused = sum(answer.status_code != 200 for answer in answers[True])
    flood = f"{'with' if classes else 'without'} classes, flood of {flood_words} words"
    print(f"{flood}, {len(answers[True])} requests, {refused} refused: p95 of the first token", end=" ")
    print(f"{alone:.0f} ms without, {beside:.0f} ms beside the flood ({beside / alone:.2f} times)")
    print("  p95 of each part, without and beside the flood, ms: ", end="")
    print(", ".join(f"{part} {value:.1f} {parts[True][part]:.1f}" for part, value in parts[False].items()))
    mean, least = sum(load.batch_slots) / len(load.batch_slots), min(load.batch_slots)
    print(
        f"  flood: {dict(load.statuses)}, slots mean {mean:.1f} least {least:.0f} (it keeps {SHARE * SLOTS:.1f}), slowest "
        f"{load.longest_seconds:.1f} s with its wait (bound of the wait: {QUEUE_SECONDS} s)",
        flush=True,
    )


def ledgers(router: RouterPart, answers: list[httpx.Response]) -> dict[str, float]:
    """Return the p95 of the time to first token and of its parts in ms; a refused request counts as infinite."""
    records = [
        router.record(answer.headers["x-request-id"]) for answer in answers if answer.status_code == 200
    ]
    refused = [float("inf")] * (len(answers) - len(records))
    found = {"first token": p95([record["first_token_ms"] for record in records] + refused)}
    for part in ("router_queue", "engine_queue", "prefill"):
        found[part] = p95([record["ttft_ledger_ms"][part] for record in records])
    return found


if __name__ == "__main__":
    chosen = int(sys.argv[1]) if sys.argv[1:] else random.randrange(10**6)
    print(f"seed {chosen}")
    run({}, chosen, 3)
    run(CLASSES, chosen, 3)
    run(CLASSES, chosen, WORDS)
