"""Plays a recorded load on simulated engines, event by event. The router's own `decide` chooses the engine.

One router sees all requests. Engines have the prefix-cache hits of the recording.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field

from router_service.forecast.engine_fit import EngineTimes
from router_service.forecast.workload import Request, Workload
from router_service.routing.decide import decide
from router_service.routing.policy import Policy
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.vocabulary import Unroutable


@dataclass(frozen=True)
class Setup:
    """The simulated pool. ``slots``: requests that an engine runs at once, ``limit``: requests that the router sends to it.
    ``rate``: how many times faster the requests arrive.
    """

    pool: str
    engines: int
    slots: int
    limit: int
    queue_size: int
    queue_seconds: float
    rate: float = 1.0


@dataclass
class Played:
    """The result of a simulation. ``first_tokens``: seconds to the first token of each answered streamed request."""

    first_tokens: list[float] = field(default_factory=list)
    waited: int = 0
    refused: int = 0
    elsewhere: int = 0


@dataclass(slots=True, eq=False)
class _Running:
    request: Request
    asked: float
    left: int
    began: float = 0.0
    first_done: bool = False


class _Engine:
    """One engine: waiting and running requests; ``busy`` is True during a step."""

    def __init__(self, times: EngineTimes, slots: int, view: BackendView) -> None:
        self.view = view
        self.busy = False
        self._times = times
        self._slots = slots
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []

    def submit(self, running: _Running) -> None:
        self._waiting.append(running)

    def begin_step(self) -> float | None:
        """Start waiting requests that fit, and return the seconds of the step; None if there is no work."""
        fresh = 0
        while self._waiting and len(self._running) < self._slots:
            started = self._waiting.popleft()
            fresh += started.request.fresh_tokens
            self._running.append(started)
        self.busy = bool(self._running)
        if not self.busy:
            return None
        times = self._times
        return times.step + times.per_request * len(self._running) + times.per_token * fresh

    def end_step(self) -> tuple[list[_Running], list[_Running]]:
        """Give every running request a token; return those with their first token and those that are complete."""
        first = [running for running in self._running if not running.first_done]
        for running in self._running:
            running.left -= 1
            running.first_done = True
        done = [running for running in self._running if running.left <= 0]
        if done:
            self._running = [running for running in self._running if running.left > 0]
        return first, done


class _Simulation:
    def __init__(self, workload: Workload, times: EngineTimes, policy: Policy, setup: Setup) -> None:
        self._policy = policy
        self._setup = setup
        views = [
            BackendView(f"engine-{number}", setup.pool, "", limit=setup.limit, unusable=None)
            for number in range(setup.engines)
        ]
        self._pools = {setup.pool: PoolView(setup.pool, views)}
        self._engines = {view.name: _Engine(times, setup.slots, view) for view in views}
        self._pins: dict[str, str] = {}
        self._line: deque[_Running] = deque()
        self._steps: list[tuple[float, int, str]] = []
        self._count = 0
        self._arrivals = deque(
            _Running(request, request.arrived / setup.rate, request.tokens) for request in workload.requests
        )
        self.played = Played()

    def run(self) -> Played:
        while self._arrivals or self._steps:
            if not self._steps or (self._arrivals and self._arrivals[0].asked <= self._steps[0][0]):
                arrived = self._arrivals.popleft()
                self._arrive(arrived, arrived.asked)
            else:
                now, _, name = heapq.heappop(self._steps)
                self._end_step(self._engines[name], now)
        return self.played

    def _arrive(self, running: _Running, now: float) -> None:
        if self._line or not self._place(running, now):
            if len(self._line) >= self._setup.queue_size:
                self.played.refused += 1
                return
            self.played.waited += 1
            self._line.append(running)

    def _place(self, running: _Running, now: float) -> bool:
        """Send a request to the engine that the router chooses; return False if it must wait."""
        features = running.request.features
        pool = self._pools[self._setup.pool]
        snapshot = Snapshot(self._pools, self._pins.get(features.session, ""))
        decision = decide(features, snapshot, self._policy, now)
        chosen = decision.chosen
        if chosen is None:
            if decision.unroutable is Unroutable.ALL_AT_LIMIT:
                return False
            self.played.elsewhere += 1
            return True
        if features.session:
            self._pins[features.session] = chosen.name
        pool.round_robin = decision.place + 1
        chosen.in_flight += 1
        engine = self._engines[chosen.name]
        engine.submit(running)
        if not engine.busy:
            self._begin_step(engine, now)
        return True

    def _begin_step(self, engine: _Engine, now: float) -> None:
        seconds = engine.begin_step()
        if seconds is not None:
            self._count += 1
            heapq.heappush(self._steps, (now + seconds, self._count, engine.view.name))

    def _end_step(self, engine: _Engine, now: float) -> None:
        first, done = engine.end_step()
        for running in first:
            if running.request.first_token is not None:
                self.played.first_tokens.append(now - running.asked + running.request.overhead)
        for _ in done:
            engine.view.in_flight -= 1
        self._begin_step(engine, now)
        while done and self._line:
            waiting = self._line[0]
            if now - waiting.asked > self._setup.queue_seconds:
                self.played.refused += 1
            elif not self._place(waiting, now):
                break
            self._line.popleft()


def play(workload: Workload, times: EngineTimes, policy: Policy, setup: Setup) -> Played:
    """Play ``workload`` on the simulated pool. The same arguments give the same result."""
    return _Simulation(workload, times, policy, setup).run()
