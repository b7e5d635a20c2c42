#!/usr/bin/env python3
"""Measures the router's CPU time per request and per chunk while five pages of the console are open, compared with none.

One router, one console and one Prometheus that scrapes the router. Rounds with and without open pages alternate, so that
a slow change of the machine counts for both. A round is the same number of one-token requests, then of long streams.
Prints the means, their difference, and the difference of two halves of the rounds without pages, which is the noise.

First it measures the router without requests, with and without open pages: what the pages alone cost. Prometheus and the
console use the same cores, so that a busy machine makes the rounds with requests differ more than the pages cost.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.router_fleet import BIN, MODEL, RouterPart, fleet_in

ROUNDS = 12
REQUESTS, STREAMS, TOKENS = 300, 12, 400
PAGES = ("/", "/requests", "/why", "/rules", "/changes")
IDLE_SPANS, IDLE_SECONDS = 3, 15.0
REFRESH_SECONDS = 5.0
"""An open page with `live=true` reloads itself this often."""

PROMETHEUS = {"global": {"scrape_interval": "5s"}, "scrape_configs": []}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that the threads of a process have used; the kernel counts it in nanoseconds."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


@contextmanager
def open_pages(console: str, opened: bool) -> Iterator[None]:
    """Reload every page as five browsers would, until the block ends."""
    over = threading.Event()

    def reload(path: str, delay: float) -> None:
        over.wait(delay)
        with httpx.Client(timeout=30) as client:
            while not over.is_set():
                client.get(f"{console}{path}?live=true").raise_for_status()
                over.wait(REFRESH_SECONDS)

    threads = [
        threading.Thread(target=reload, args=(path, number * REFRESH_SECONDS / len(PAGES)))
        for number, path in enumerate(PAGES if opened else ())
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def spent(router: RouterPart, client: httpx.Client, count: int, tokens: int) -> float:
    """Return the router's CPU seconds for ``count`` streams of ``tokens`` chunks, sent one after the other."""
    body = {
        "model": MODEL, "stream": True, "max_tokens": tokens, "ignore_eos": True,
        "messages": [{"role": "user", "content": "Tell me about Paris."}],
    }  # fmt: skip
    before = cpu_seconds(router.pid)
    for _ in range(count):
        text = client.post(f"{router.url}/v1/chat/completions", json=body).text
        assert text.endswith("data: [DONE]\n\n")
    return cpu_seconds(router.pid) - before


def measure_idle(router: RouterPart, console: str) -> dict[bool, list[float]]:
    """Return the router's milliseconds of CPU in a second without requests, with and without pages."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * IDLE_SPANS):
        with open_pages(console, number % 2 == 1):
            before = cpu_seconds(router.pid)
            time.sleep(IDLE_SECONDS)
            found[number % 2 == 1].append((cpu_seconds(router.pid) - before) / IDLE_SECONDS * 1e3)
    return found


def measure(router: RouterPart, console: str, rounds: int) -> dict[bool, list[tuple[float, float]]]:
    """Return for each round, with and without pages, the microseconds of a request and of a chunk."""
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with httpx.Client(timeout=60) as client:
        for number in range(2 * rounds):
            opened = number % 4 in (1, 2)
            with open_pages(console, opened):
                time.sleep(REFRESH_SECONDS)
                request = spent(router, client, REQUESTS, 1) / REQUESTS
                chunk = (spent(router, client, STREAMS, TOKENS) / STREAMS - request) / (TOKENS - 1)
            found[opened].append((request * 1e6, chunk * 1e6))
    return found


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name, fleet_in(Path(name)) as fleet:
        fleet.add_engine("one", "--step-seconds", "0.002")
        router = fleet.add_router(
            timeouts={"first_token_seconds": 30, "idle_seconds": 30, "total_seconds": 60}
        )
        folder, ports = Path(name), (free_port(), free_port())
        targets = {"static_configs": [{"targets": [f"127.0.0.1:{router.port}"]}]}
        scraped = {**PROMETHEUS, "scrape_configs": [{"job_name": "router-service", **targets}]}
        (folder / "prometheus.yml").write_text(json.dumps(scraped))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        prometheus = [
            *("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
            f"--web.listen-address=127.0.0.1:{ports[0]}",
        ]
        console = [
            *(BIN / "python", "-m", "console.main", "serve", "--port", str(ports[1])),
            *("--prometheus", urls[0], "--router", router.url),
        ]
        with (
            running(prometheus, log=folder / "prometheus.log", ready=answers(f"{urls[0]}/-/ready")),
            running(console, log=folder / "console.log", ready=answers(f"{urls[1]}/healthz")),
        ):
            with httpx.Client(timeout=60) as client:
                spent(router, client, REQUESTS, 1)
            idle = measure_idle(router, urls[1])
            found = measure(router, urls[1], rounds)
    none, five = (", ".join(f"{one:.2f}" for one in idle[opened]) for opened in (False, True))
    print(f"CPU without requests, ms per second: none {none}; five pages {five}")
    for column, what in enumerate(("request", "chunk")):
        none, five = ([one[column] for one in found[opened]] for opened in (False, True))
        halves = [statistics.fmean(none[start::2]) for start in (0, 1)]
        print(
            f"CPU per {what}: none {statistics.fmean(none):.1f} µs, five pages {statistics.fmean(five):.1f} µs "
            f"({statistics.fmean(five) - statistics.fmean(none):+.1f}); two halves without pages differ by "
            f"{abs(halves[0] - halves[1]):.1f} µs, standard deviation {statistics.stdev(none):.1f} µs"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="rounds with, and as many without open pages"
    )
    main(parser.parse_args().rounds)
