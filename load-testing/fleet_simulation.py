"""A discrete-event simulation of many engines behind several routers: checks the arithmetic of capacity_plan.py.

Each router chooses the engine with the fewest of its *own* requests in flight, as the real ones do: it does not know
of the others'. An engine's streams all advance one token a step, and a step takes longer with company. Knows no
arithmetic of capacities: what it counts is what happened.
"""

import argparse
import heapq
import random
import sys
from dataclasses import dataclass, field

from capacity_plan import Costs, Gpu, plan


@dataclass
class Engine:
    """Streams that share steps. ``position`` is how many tokens each present stream has got since the start."""

    gpu: Gpu
    position: float = 0.0
    at: float = 0.0
    version: int = 0
    running: list[tuple[float, int, int]] = field(
        default_factory=list
    )  # (position at its end, request, router)
    waiting: list[tuple[float, int, int, float]] = field(
        default_factory=list
    )  # (tokens, request, router, since)

    def step_seconds(self) -> float:
        return self.gpu.step_seconds + self.gpu.step_seconds_per_stream * len(self.running)

    def advance(self, now: float) -> None:
        """Move to ``now``; nothing begins or ends in between."""
        if self.running:
            self.position += (now - self.at) / self.step_seconds()
        self.at = now

    def next_end(self) -> float | None:
        if not self.running:
            return None
        return self.at + max(self.running[0][0] - self.position, 0.0) * self.step_seconds()


@dataclass(frozen=True)
class Result:
    """What happened after the warm-up, per second or as a mean over time."""

    requests_per_second: float
    chunks_per_second: float
    streams: float
    waited_ratio: float
    wait_p99_seconds: float
    busiest_to_mean: float
    router_cores: float
    busiest_router_to_mean: float


def simulate(
    engines: int, routers: int, rate: float, gpu: Gpu, costs: Costs, seconds: float, warm_up: float, seed: int
) -> Result:
    """Run Poisson arrivals at ``rate`` requests/s for ``seconds``; the first ``warm_up`` of them do not count.

    Answers have exponential lengths around ``gpu.tokens_per_answer``.
    """
    draws = random.Random(seed)
    fleet = [Engine(gpu) for _ in range(engines)]
    in_flight = [[0] * engines for _ in range(routers)]
    turn = [draws.randrange(engines) for _ in range(routers)]
    events: list[tuple[float, int, int]] = [(draws.expovariate(rate), -1, 0)]  # (time, engine or -1, version)
    requests = waited = 0
    tokens = busy_streams = 0.0
    per_engine, per_router = [0.0] * engines, [0.0] * routers
    waits: list[float] = []
    last = 0.0
    number = 0

    def plan_end(index: int) -> None:
        engine = fleet[index]
        engine.version += 1
        end = engine.next_end()
        if end is not None:
            heapq.heappush(events, (end, index, engine.version))

    while events:
        now, index, version = heapq.heappop(events)
        if now > seconds:
            break
        if now > warm_up:
            span = now - max(last, warm_up)
            for i, engine in enumerate(fleet):
                per_engine[i] += len(engine.running) * span
            busy_streams += sum(len(engine.running) for engine in fleet) * span
        last = now
        if index < 0:
            number += 1
            heapq.heappush(events, (now + draws.expovariate(rate), -1, 0))
            router = draws.randrange(routers)
            chosen = _fewest(in_flight[router], turn[router])
            turn[router] = (chosen + 1) % engines
            in_flight[router][chosen] += 1
            length = max(draws.expovariate(1 / gpu.tokens_per_answer), 1.0)
            engine = fleet[chosen]
            engine.advance(now)
            if len(engine.running) < gpu.streams:
                heapq.heappush(engine.running, (engine.position + length, number, router))
                wait = 0.0
            else:
                engine.waiting.append((length, number, router, now))
                wait = -1.0
            if now > warm_up:
                requests += 1
                tokens += length
                per_router[router] += costs.router_request_us + length * costs.router_chunk_us
                waited += wait < 0
                if wait == 0:
                    waits.append(0.0)
            plan_end(chosen)
        elif version == fleet[index].version:
            engine = fleet[index]
            engine.advance(now)
            _, _, router = heapq.heappop(engine.running)
            in_flight[router][index] -= 1
            if engine.waiting:
                length, request, waiting_router, since = engine.waiting.pop(0)
                heapq.heappush(engine.running, (engine.position + length, request, waiting_router))
                if now > warm_up:
                    waits.append(now - since)
            plan_end(index)
    measured = last - warm_up
    waits.sort()
    return Result(
        requests_per_second=requests / measured,
        chunks_per_second=tokens / measured,
        streams=busy_streams / measured,
        waited_ratio=waited / max(requests, 1),
        wait_p99_seconds=waits[int(len(waits) * 0.99)] if waits else 0.0,
        busiest_to_mean=max(per_engine) / (sum(per_engine) / engines),
        router_cores=sum(per_router) / 1e6 / measured,
        busiest_router_to_mean=max(per_router) / (sum(per_router) / routers),
    )


def _fewest(counts: list[int], start: int) -> int:
    """The index with the lowest count; equals take turns."""
    lowest = min(counts)
    for offset in range(len(counts)):
        index = (start + offset) % len(counts)
        if counts[index] == lowest:
            return index
    raise AssertionError("there is always a lowest")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fleet-simulation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engines", type=int, default=64)
    parser.add_argument("--routers", type=int, default=0, help="0: what the plan says")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    gpu, costs = Gpu(), Costs()
    planned = plan(options.engines, gpu, costs)
    found = simulate(
        options.engines,
        options.routers or planned.routers,
        planned.requests_per_second,
        gpu,
        costs,
        options.seconds,
        options.seconds / 4,
        options.seed,
    )
    print(f"{options.engines} engines, {options.routers or planned.routers} routers, seed {options.seed}")
    print("| | arithmetic | simulated |")
    print("|---|---|---|")
    for name, on_paper, happened in (
        ("requests/s", planned.requests_per_second, found.requests_per_second),
        ("tokens/s", planned.chunks_per_second, found.chunks_per_second),
        ("streams at once", planned.streams, found.streams),
        ("router cores for traffic", planned.router_cores, found.router_cores),
    ):
        print(f"| {name} | {on_paper:,.1f} | {happened:,.1f} |")
    print(f"waited for a place: {found.waited_ratio:.2%}, p99 of the wait {found.wait_p99_seconds:.2f} s")
    print(
        f"busiest engine {found.busiest_to_mean:.2f} × the mean, busiest router {found.busiest_router_to_mean:.2f} ×"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
