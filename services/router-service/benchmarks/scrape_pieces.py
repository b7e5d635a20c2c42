#!/usr/bin/env python3
"""Measures how long one scrape of a router with 1,000 backends holds its event loop without a pause.

A router with 1,000 real connections serves requests, then is scraped. The router writes its metrics in pieces and lets the
loop do other work between two of them; the figure is the CPU time of the loop's thread for the longest piece. Prints
the three longest pieces of every scrape in ms, with the metric that follows.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from load_testing.bench.native_programs import compile_programs
from load_testing.bench.processes import answers, free_port, running
from load_testing.bench.scale import addresses
from load_testing.bench.systems import router_config, rules
from router_service.main import main as router_main
from router_service.telemetry.registry import Encode, Exposition

BACKENDS = 1_000
SCRAPES = 20
LONGEST = 3
MARK = "scrape pieces "


def timed(exposition: Exposition, encode: Encode) -> Iterator[bytes]:
    """Yield the pieces of a scrape, then print the longest to standard error."""
    pieces, took = ORIGINAL(exposition, encode), []
    while True:
        began = time.thread_time()
        piece = next(pieces, None)
        spent = (time.thread_time() - began) * 1e3
        if piece is None:
            break
        took.append(
            (round(spent, 2), piece[:60].decode().removeprefix("# HELP ").split("{")[0].split(" ")[0])
        )
        yield piece
    print(MARK + json.dumps(sorted(took, reverse=True)[:LONGEST]), file=sys.stderr, flush=True)


ORIGINAL = Exposition.pieces


def measure(folder: Path) -> list[str]:
    """Return a line for each scrape."""
    compile_programs(folder)
    backend_port, port = free_port(), free_port()
    urls = [f"http://{address}:{backend_port}" for address in addresses(BACKENDS)]
    (folder / "rules.yaml").write_text(rules())
    (folder / "router.yaml").write_text(router_config(port, urls))
    backend = [str(folder / "backend"), str(backend_port), "50", "40", str(BACKENDS)]
    router = [sys.executable, __file__, "serve", "--config", str(folder / "router.yaml")]
    log = folder / "router.log"
    with (
        running(backend, folder / "backend.log", partial(answers, f"{urls[-1]}/health")),
        running(router, log, partial(answers, f"http://127.0.0.1:{port}/readyz")),
    ):
        subprocess.run(
            [str(folder / "loadgen"), str(port), "closed", "32", "5.0", "1024"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(SCRAPES):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()
            time.sleep(0.5)
    return [line.removeprefix(MARK) for line in log.read_text().splitlines() if line.startswith(MARK)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        Exposition.pieces = timed  # type: ignore[method-assign]
        sys.exit(router_main())
    with tempfile.TemporaryDirectory() as scratch:
        lines = measure(Path(scratch))
    print("\n".join(lines))
    longest = sorted(json.loads(line)[0][0] for line in lines)
    print(
        f"longest piece of {len(longest)} scrapes: median {longest[len(longest) // 2]} ms, at most {longest[-1]} ms"
    )
