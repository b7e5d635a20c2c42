#!/usr/bin/env python3
"""Runs the router and writes to standard error how long each scrape of its metrics held the event loop.

The router writes its metrics in pieces and lets the loop do other work between two of them. For every scrape, the three
longest pieces in ms of the loop thread's CPU time, each with the metric that it begins with. `make bench SCALE=1` starts the
router with it; the arguments are those of `router-service`.
"""

import json
import sys
import time
from collections.abc import Iterator

from router_service.main import main
from router_service.telemetry.registry import Encode, Exposition

LONGEST = 3
ORIGINAL = Exposition.pieces


def timed(exposition: Exposition, encode: Encode) -> Iterator[bytes]:
    """Yield the pieces of a scrape, then write the longest to standard error."""
    pieces, took = ORIGINAL(exposition, encode), []
    while True:
        began = time.thread_time()
        piece = next(pieces, None)
        spent = (time.thread_time() - began) * 1e3
        if piece is None:
            break
        metric = piece[:60].decode().removeprefix("# HELP ").split("{")[0].split(" ")[0]
        took.append((round(spent, 2), metric))
        yield piece
    print("scrape pieces " + json.dumps(sorted(took, reverse=True)[:LONGEST]), file=sys.stderr, flush=True)


if __name__ == "__main__":
    Exposition.pieces = timed  # type: ignore[method-assign]
    sys.exit(main())
