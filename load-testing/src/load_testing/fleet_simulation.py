"""A discrete-event simulation of many engines behind several routers: checks the arithmetic of capacity_plan.py.

Each router chooses the engine with the fewest of its *own* requests in flight, as the real ones do, without
knowing the other routers' requests. All streams of an engine advance one token per step, and a step takes
longer with more streams. It uses no formula of capacity_plan.py: it counts events.
"""

import argparse
import heapq
import random
import sys
from dataclasses import dataclass, field

from load_testing.capacity_plan import CELL_GPUS, Costs, Gpu, plan

COUNT_SECONDS = 0.05
"""Least time between two counts of the running streams: counting a thousand engines at every event takes minutes."""


@dataclass
class Engine:
    """The streams of one engine, which share its steps.

    ``position`` is the number of tokens that a stream present since the start would have.
    """

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
        """Advance to ``now``; no stream begins or ends in between."""
        if self.running:
            self.position += (now - self.at) / self.step_seconds()
        self.at = now

    def next_end(self) -> float | None:
        if not self.running:
            return None
        return self.at + max(self.running[0][0] - self.position, 0.0) * self.step_seconds()


@dataclass(frozen=True)
class Result:
    """The results after the warm-up, per second or as a mean over time."""

    requests_per_second: float
    chunks_per_second: float
    streams: float
    waited_ratio: float
    wait_p99_seconds: float
    busiest_to_mean: float
    router_cores: float
    busiest_router_to_mean: float


@dataclass(frozen=True)
class Run:
    """The simulated load: Poisson arrivals of ``rate`` requests/s for ``seconds``; the first ``warm_up`` do not count."""

    engines: int
    routers: int
    rate: float
    seconds: float
    warm_up: float
    seed: int


def simulate(run: Run, gpu: Gpu, costs: Costs) -> Result:
    """Simulate ``run``. Answers have exponential lengths around ``gpu.tokens_per_answer``."""
    return _Simulation(run, gpu, costs).result()


class _Simulation:
    """One run: the fleet, the pending events, and the sums since the warm-up."""

    def __init__(self, run: Run, gpu: Gpu, costs: Costs) -> None:
        self._run, self._gpu = run, gpu
        self._request_us, self._chunk_us = costs.of_router(run.engines)
        self._draws = random.Random(run.seed)
        self._fleet = [Engine(gpu) for _ in range(run.engines)]
        self._in_flight = [[0] * run.engines for _ in range(run.routers)]
        self._turn = [self._draws.randrange(run.engines) for _ in range(run.routers)]
        # (time, engine or -1 for an arrival, version)
        self._events: list[tuple[float, int, int]] = [(self._draws.expovariate(run.rate), -1, 0)]
        self._arrived = 0
        self._requests = self._waited = 0
        self._tokens = self._busy_streams = 0.0
        self._per_engine, self._per_router = [0.0] * run.engines, [0.0] * run.routers
        self._waits: list[float] = []

    def result(self) -> Result:
        """Process all events and return the sums as rates, ratios and means."""
        measured = self._play() - self._run.warm_up
        waits = sorted(self._waits)
        per_engine, per_router = self._per_engine, self._per_router
        return Result(
            requests_per_second=self._requests / measured,
            chunks_per_second=self._tokens / measured,
            streams=self._busy_streams / measured,
            waited_ratio=self._waited / max(self._requests, 1),
            wait_p99_seconds=waits[int(len(waits) * 0.99)] if waits else 0.0,
            busiest_to_mean=max(per_engine) / (sum(per_engine) / self._run.engines),
            router_cores=sum(per_router) / 1e6 / measured,
            busiest_router_to_mean=max(per_router) / (sum(per_router) / self._run.routers),
        )

    def _play(self) -> float:
        """Process the events in order; return the time of the last one."""
        last = counted = self._run.warm_up
        while self._events:
            now, index, version = heapq.heappop(self._events)
            if now > self._run.seconds:
                break
            if now - counted > COUNT_SECONDS:
                self._count_streams(now - counted)
                counted = now
            last = max(last, now)
            if index < 0:
                self._arrive(now)
            elif version == self._fleet[index].version:
                self._end(now, index)
        return last

    def _count_streams(self, span: float) -> None:
        for index, engine in enumerate(self._fleet):
            self._per_engine[index] += len(engine.running) * span
        self._busy_streams += sum(len(engine.running) for engine in self._fleet) * span

    def _arrive(self, now: float) -> None:
        """Route one request; it starts at once if its engine has a free slot, else it waits there."""
        self._arrived += 1
        heapq.heappush(self._events, (now + self._draws.expovariate(self._run.rate), -1, 0))
        router = self._draws.randrange(self._run.routers)
        chosen = _fewest(self._in_flight[router], self._turn[router])
        self._turn[router] = (chosen + 1) % self._run.engines
        self._in_flight[router][chosen] += 1
        length = max(self._draws.expovariate(1 / self._gpu.tokens_per_answer), 1.0)
        engine = self._fleet[chosen]
        engine.advance(now)
        begins = len(engine.running) < self._gpu.streams
        if begins:
            heapq.heappush(engine.running, (engine.position + length, self._arrived, router))
        else:
            engine.waiting.append((length, self._arrived, router, now))
        if now > self._run.warm_up:
            self._requests += 1
            self._tokens += length
            self._per_router[router] += self._request_us + length * self._chunk_us
            if begins:
                self._waits.append(0.0)
            else:
                self._waited += 1
        self._plan_end(chosen)

    def _end(self, now: float, index: int) -> None:
        """End the engine's next stream; its first waiting request takes the slot."""
        engine = self._fleet[index]
        engine.advance(now)
        _, _, router = heapq.heappop(engine.running)
        self._in_flight[router][index] -= 1
        if engine.waiting:
            length, request, waiting_router, since = engine.waiting.pop(0)
            heapq.heappush(engine.running, (engine.position + length, request, waiting_router))
            if now > self._run.warm_up:
                self._waits.append(now - since)
        self._plan_end(index)

    def _plan_end(self, index: int) -> None:
        """Schedule the end of the engine's next stream, replacing an earlier schedule."""
        engine = self._fleet[index]
        engine.version += 1
        end = engine.next_end()
        if end is not None:
            heapq.heappush(self._events, (end, index, engine.version))


def _fewest(counts: list[int], start: int) -> int:
    """Return the index with the lowest count; equal counts take turns."""
    lowest = min(counts)
    for offset in range(len(counts)):
        index = (start + offset) % len(counts)
        if counts[index] == lowest:
            return index
    raise AssertionError("there is always a lowest")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fleet-simulation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--engines", type=int, default=64, help="all behind one set of routers (default: %(default)s)"
    )
    parser.add_argument("--routers", type=int, default=0, help="0: what the plan says")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    gpu, costs = Gpu(), Costs()
    planned = plan(options.engines, gpu, costs, max(CELL_GPUS, options.engines))
    run = Run(
        engines=options.engines,
        routers=options.routers or planned.routers,
        rate=planned.requests_per_second,
        seconds=options.seconds,
        warm_up=options.seconds / 4,
        seed=options.seed,
    )
    found = simulate(run, gpu, costs)
    print(f"{options.engines} engines, {options.routers or planned.routers} routers, seed {options.seed}")
    print("| | arithmetic | simulated |")
    print("|---|---|---|")
    for name, on_paper, happened in (
        ("requests/s", planned.requests_per_second, found.requests_per_second),
        ("tokens/s", planned.chunks_per_second, found.chunks_per_second),
        ("concurrent streams", planned.streams, found.streams),
        ("router cores for traffic", planned.router_cores, found.router_cores),
    ):
        print(f"| {name} | {on_paper:,.1f} | {happened:,.1f} |")
    print(f"queued requests: {found.waited_ratio:.2%}, p99 of the queue time {found.wait_p99_seconds:.2f} s")
    print(
        f"busiest engine {found.busiest_to_mean:.2f} × the mean, busiest router {found.busiest_router_to_mean:.2f} ×"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
