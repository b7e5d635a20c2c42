#!/usr/bin/env python3
"""Measures one decision and one record: CPU microseconds and bytes, by rules, backends and prompt size.

Pure functions, no network: run it with the platform's Python. Each figure is the least of several rounds of
CPU time (neighbours on the same core only ever add); the shapes next to the targets' (100 rules, 64 and 1,000 backends,
1 kB) show how the cost grows.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from router_service.records.record import AttemptRecord, DecisionRecord
from router_service.routing.conditions import make
from router_service.routing.decide import decide
from router_service.routing.features import Features, Sender, extract_features
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Group, Rule, Target
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.standing import FROM_BACKENDS, Standing
from router_service.routing.vocabulary import Outcome

ROUNDS = 7
DECIDE_US, RECORD_US, RECORD_BYTES = {64: 35.0, 1000: 60.0}, 15.0, 1536


@dataclass(frozen=True)
class Shape:
    """One case: the number of rules before the match, the number of backends, the size of the prompt."""

    rules: int
    backends: int
    prompt_bytes: int
    policy: str = "least_loaded"


def rules(count: int) -> tuple[Rule, ...]:
    """Return ``count`` typical rules, none of which matches."""
    kinds = (
        {"model": "other-*"},
        {"max_tokens_gte": 100_000},
        {"any_keywords": ["contract law", "indemnity"]},
        {"regex": "(?i)translate .{1,40} into klingon"},
        {"header": {"name": "x-tier", "equals": "gold"}},
        {"client_id": "nobody", "stream": True},
    )
    return tuple(
        Rule(
            f"rule-{number}",
            Group("all", tuple(make(kind, value) for kind, value in kinds[number % len(kinds)].items())),
            (Target("general"),),
        )
        for number in range(count)
    )


def situation(shape: Shape) -> tuple[Policy, Snapshot, bytes]:
    """Return a policy, a half-busy pool, and a request body."""
    pool = Pool("general", shape.policy, ("small",))
    policy = Policy({"general": pool}, rules(shape.rules), "general")
    backends = [
        BackendView(f"engine-{n}", "general", f"http://e{n}", unusable=None, limit=64, in_flight=n * 7 % 30)
        for n in range(shape.backends)
    ]
    words = "The quick brown fox jumps over the lazy dog. " * (shape.prompt_bytes // 45 + 1)
    body = {
        "model": "small",
        "stream": True,
        "max_tokens": 200,
        "messages": [{"role": "user", "content": words[: shape.prompt_bytes]}],
    }
    standing = Standing(backends) if shape.backends >= FROM_BACKENDS else None
    return policy, Snapshot({"general": PoolView("general", backends, standing=standing)}), orjson.dumps(body)


def cpu_us(work: Callable[[], object], seconds: float = 0.15) -> float:
    """Return the CPU microseconds of one call, the minimum of several rounds."""
    count = 1
    while True:
        began = time.process_time()
        for _ in range(count):
            work()
        if (took := time.process_time() - began) > seconds / 4:
            break
        count *= 4
    found = [took / count]
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(count):
            work()
        found.append((time.process_time() - began) / count)
    return min(found) * 1e6


def features_of(body: bytes, policy: Policy) -> Features:
    """Return the features of a raw body, including parsing, as in the router."""
    headers = {"content-type": "application/json", "x-tier": "free"}
    return extract_features(
        orjson.loads(body),
        "/v1/chat/completions",
        headers,
        Sender("team-a", "0f8fad5b-d9cb-469f-a165-70867728950e"),
        needs=policy.needs,
    )


def decide_cost(shape: Shape) -> tuple[float, float]:
    """Return the CPU microseconds of (features from bytes, decide)."""
    policy, snapshot, body = situation(shape)
    extracting = cpu_us(lambda: features_of(body, policy))

    # Results of conditions are cached in the features, so a decision needs new ones: their cost is subtracted.
    def both() -> None:
        decide(features_of(body, policy), snapshot, policy, 0.0)

    return extracting, cpu_us(both) - extracting


def record_cost() -> tuple[float, int]:
    """Return the CPU microseconds of (building a record and its log line), and the bytes of the line; four
    candidates.
    """
    policy, snapshot, body = situation(Shape(5, 4, 1024))
    features = features_of(body, policy)
    decision = decide(features, snapshot, policy, 0.0)

    def make_line() -> bytes:
        record = DecisionRecord(features.request_id, features.path, 1.7e9, "0123456789ab")
        record.client_id = "team-a"
        record.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
        record.features = features
        record.decided(decision)
        record.attempts.append(AttemptRecord("engine-0", "ok", 200, 0.4, 41.0))
        record.outcome, record.status = Outcome.OK, 200
        record.tokens_prompt, record.tokens_completion = 240, 200
        return orjson.dumps(record.as_dict())

    return cpu_us(make_line), len(make_line())


def main() -> int:
    """Print the table; exit 1 if a target is missed. With ``--targets``, print only those decisions' CPU µs, as JSON."""
    if sys.argv[1:] == ["--targets"]:
        print(json.dumps({n: round(decide_cost(Shape(100, n, 1024))[1], 1) for n in DECIDE_US}))
        return 0
    print("rules  backends  prompt    features us  decide us")
    shapes = [Shape(100, 64, 1024), Shape(100, 1000, 1024)]
    shapes += [Shape(n, 64, 1024) for n in (0, 25, 50, 200)]
    shapes += [Shape(100, n, 1024) for n in (1, 16, 128, 256)]
    shapes += [Shape(100, 64, n) for n in (4096, 65_536)]
    shapes += [Shape(0, n, 1024, policy) for policy in ("round_robin", "prefix_affinity") for n in (64, 1000)]
    missed = False
    for number, shape in enumerate(shapes):
        extracting, deciding = decide_cost(shape)
        note = "" if shape.policy == "least_loaded" else f"  {shape.policy}"
        if number < 2:
            target = DECIDE_US[shape.backends]
            missed = missed or deciding > target
            note += f"  target {target:.0f}"
        print(
            f"{shape.rules:>5}  {shape.backends:>8}  {shape.prompt_bytes:>6} B  {extracting:>11.1f}  {deciding:>9.1f}{note}"
        )
    cost, size = record_cost()
    missed = missed or cost > RECORD_US or size > RECORD_BYTES
    print(
        f"record and its line: {cost:.1f} us (target {RECORD_US:.0f}), {size} bytes (target {RECORD_BYTES})"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
