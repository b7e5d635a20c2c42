#!/usr/bin/env python3
"""Measures the latency of requests next to a dead, slow or full shadow pool, compared with the same requests without a
shadow: real routers and engine simulators, the same requests in turn. Prints the ratio of the medians and of the means.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from harness.servers.router_fleet import MODEL, Fleet, RouterPart, fleet_in

REQUESTS = 600
STATES = ("dead", "frozen", "slow", "full")


def router(fleet: Fleet, shadow: bool, slots: int) -> RouterPart:
    """Start a router; both kinds have the same pools and one rule."""
    rule: dict[str, Any] = {"name": "all", "when": {}, "route_to": "live"}
    if shadow:
        rule["shadow"] = {"pool": "next", "percent": 100}
    name = f"rules-{shadow}.yaml"
    (fleet.folder / name).write_text(yaml.safe_dump({"rules": [rule]}))
    found = fleet.add_router(
        wait_usable=0,
        pools={
            one: {"models": [MODEL], "backends": {one: {"url": e.url}}} for one, e in fleet.engines.items()
        },
        routing={"default_pool": "live", "rules_file": name},
        limits={"shadow_slots": slots},
        health={"interval_seconds": 600, "timeout_seconds": 0.5},
    )
    while found.usable("live") + found.usable("next") < 2:
        time.sleep(0.1)
    return found


def measure(state: str) -> tuple[float, float, int]:
    """Return the ratios of median and mean with and without a shadow, and the number of errors."""
    with tempfile.TemporaryDirectory() as folder, fleet_in(Path(folder)) as fleet:
        fleet.add_engine("live")
        engine = fleet.add_engine("next", *(("--step-seconds", "2") if state in ("slow", "full") else ()))
        slots = 1 if state == "full" else 8
        routers = {True: router(fleet, True, slots), False: router(fleet, False, slots)}
        if state == "dead":
            engine.kill()
        elif state == "frozen":
            engine.freeze()
        taken: dict[bool, list[float]] = {True: [], False: []}
        errors = 0
        body = {
            "model": MODEL, "stream": True, "max_tokens": 8, "ignore_eos": True,
            "messages": [{"role": "user", "content": "Tell me about Paris."}],
        }  # fmt: skip
        with httpx.Client(timeout=30) as client:
            for number in range(REQUESTS):
                for shadow in (True, False) if number % 2 else (False, True):
                    began = time.perf_counter()
                    answer = client.post(f"{routers[shadow].url}/v1/chat/completions", json=body)
                    taken[shadow].append(time.perf_counter() - began)
                    errors += not answer.text.endswith("data: [DONE]\n\n")
        if state == "frozen":
            engine.thaw()
        middle, mean = (of(taken[True]) / of(taken[False]) for of in (statistics.median, statistics.fmean))
        return middle, mean, errors


def main() -> None:
    for state in STATES:
        middle, mean, errors = measure(state)
        print(
            f"{state:<8} median {middle:.4f}, mean {mean:.4f} of {REQUESTS} pairs; {errors} errors",
            flush=True,
        )


if __name__ == "__main__":
    main()
