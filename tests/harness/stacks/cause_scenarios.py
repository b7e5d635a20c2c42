"""Causes of a late first token, injected into the engine simulator, Redis, router and edge.

Asserts nothing about the report.
"""

import contextlib
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import httpx

from harness.clients.stopwatch import Ask, Timing, mean_first_token, varied_prompts
from harness.stacks.asked_platform import Platform, ask_once
from harness.stacks.cause_scenario import BASE_WORDS, Scenario
from harness.stacks.faults import DutyCycle, Neighbours, frozen, pid_of
from harness.waiting import eventually


class EngineQueue(Scenario):
    """Both engines get more requests than they can run at once."""

    name = "engine queue"
    cause = "engine_queue"
    verdict = "capacity"
    alert = "PoolAtCapacity"
    simulator = "--max-num-seqs 8"

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        streams = self.draw.randint(18, 34)
        self.injected = f"{streams} other streams on each engine of 8 places"
        urls = [engine.url for engine in platform.engines.values()]
        waiting: list[float] = []
        with Neighbours(urls, streams, 10, "hello there") as others:
            yield
            waiting = [engine.metric("vllm:num_requests_waiting") for engine in platform.engines.values()]
        self.proves(f"{others.finished} other answers, waiting {waiting}", min(waiting) > 0)


class SlowEngine(Scenario):
    """Every step of one engine takes several times as long."""

    name = "one slow engine"
    cause = "slow_engine"
    backend = "backend-b"
    verdict = "execution"
    alert = "BackendSlow"
    per_second = 6.0

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        factor = round(self.draw.uniform(5.0, 8.0), 2)
        self.injected = f"steps of backend-b {factor} times as long"
        engine = platform.engines["b"]
        with engine.fault("slow", factor=factor):
            yield
            hits = engine.hits("slow")
        self.proves(f"{hits} slow steps", hits > 50)

    def measured(self, platform: Platform, before: Sequence[Timing], after: Sequence[Timing]) -> float:
        def of(timings: Sequence[Timing], backend: str) -> list[Timing]:
            return [one for one in timings if one.backend == backend and one.first_token_seconds]

        rise = mean_first_token(of(after, self.backend)) - mean_first_token(of(before, self.backend))
        shares = [
            len(of(timings, self.backend)) / sum(len(of(timings, b)) for b in ("backend-a", "backend-b"))
            for timings in (before, after)
        ]
        return rise * statistics.fmean(shares)


class LongPrompts(Scenario):
    """Clients send longer prompts."""

    name = "long prompts"
    cause = "longer_prompts"
    verdict = "none"
    alert = "TtftBudgetBurningSlowly"
    per_second = 3.0
    window_seconds = 15.0

    def __init__(self, draw: random.Random) -> None:
        super().__init__(draw)
        self._long: Callable[[], str] | None = None
        self._sent = 0

    def ask(self) -> Ask:
        if self._long is None:
            return super().ask()
        self._sent += 1
        return Ask(self._long())

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        words = self.draw.randint(2000, 3000)
        self.injected = f"prompts of {words} instead of {BASE_WORDS} words"
        before = sum(engine.metric("vllm:prompt_tokens_total") for engine in platform.engines.values())
        self._sent = 0
        self._long = varied_prompts(words, self.draw.randrange(1 << 30))
        try:
            yield
        finally:
            self._long = None
        tokens = (
            sum(engine.metric("vllm:prompt_tokens_total") for engine in platform.engines.values()) - before
        )
        self.proves(f"{self._sent} long prompts, {tokens:.0f} prompt tokens", tokens > words * 10)


class AffinityLost(Scenario):
    """Redis is frozen and the router restarts without pins, so many sessions move."""

    name = "affinity lost"
    cause = "affinity_lost"
    verdict = "routing"
    alert = "AffinityStoreDown"
    also = frozenset({"TargetDown"})  # while the router starts
    restarts = True
    simulator = "--prefill-seconds-per-token 0.0006"
    per_second = 2.5
    settle_seconds = 0.0
    window_seconds = 18.0
    SESSIONS = 56

    def __init__(self, draw: random.Random) -> None:
        super().__init__(draw)
        self._contexts: list[tuple[str, str]] = []
        self._turn = 0

    def ask(self) -> Ask:
        if not self._contexts:
            return super().ask()
        session, context = self._contexts[self._turn % len(self._contexts)]
        self._turn += 1
        return Ask(f"{context} {self._turn}", {"x-session-id": session}, max_tokens=2)

    def prepare(self, platform: Platform) -> None:
        """Open new sessions whose first turn reaches only backend-a, so that all are pinned and cached there."""
        words = self.draw.randint(700, 1100)
        make = varied_prompts(words, self.draw.randrange(1 << 30))
        tag = self.draw.randrange(1 << 30)
        contexts = [(f"session-{tag}-{number}", make()) for number in range(self.SESSIONS)]
        self.injected = f"{len(contexts)} sessions of {words} words"
        platform.stopwatch.paused = True
        agent = platform.stack.url("AGENT_B_PORT")
        usable = f"{platform.stack.router}/metrics"

        def usable_backends() -> float:
            lines = httpx.get(usable, timeout=10).text.splitlines()
            return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith("router_usable_backends{"))

        pid = pid_of(platform.stack, "agent-b")
        with frozen(pid):  # backend-b's /readyz does not answer, so the router sends nothing to it
            eventually(lambda: usable_backends() == 1, "backend-b is out", 30)
            for session, context in contexts:
                ask_once(platform.stack, f"{context} 0", session)
        eventually(lambda: usable_backends() == 2, "backend-b is back", 30)
        httpx.get(f"{agent}/readyz", timeout=10).raise_for_status()
        self._contexts, self._turn = contexts, 0
        platform.stopwatch.paused = False

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        platform.stopwatch.paused = True
        time.sleep(1.5)
        old = pid_of(platform.stack, "router")
        hits = {
            letter: engine.metric("vllm:prefix_cache_hits_total")
            for letter, engine in platform.engines.items()
        }
        with frozen(pid_of(platform.stack, "redis")):
            os.kill(old, 9)
            router = platform.stack.router

            def ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return httpx.get(f"{router}/readyz", timeout=2).status_code == 200
                return False

            eventually(ready, "the router is back", 60)
            time.sleep(1.5)
            self._turn = 0
            platform.stopwatch.paused = False
            yield
            up = platform.query("min(router_affinity_store_up)")
        missed = platform.engines["b"].metric("vllm:prefix_cache_hits_total") - hits["b"]
        new = pid_of(platform.stack, "router")
        self.proves(
            f"router {old} -> {new}, store up {up}, hits on b {missed:.0f}", new != old and up[0][1] == 0
        )
        self._contexts = []


class EventLoopBlocked(Scenario):
    """The router's event loop is blocked repeatedly for a fraction of a second."""

    name = "router event loop blocked"
    cause = "event_loop_blocked"
    verdict = "routing"
    alert = "RouterEventLoopBlocked"

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        freeze = round(self.draw.uniform(0.28, 0.45), 3)
        self.injected = f"router blocked about {freeze * 1e3:.0f} ms, then runs about 60 ms, in turns"
        with DutyCycle(pid_of(platform.stack, "router"), freeze, 0.06, self.draw.randrange(1 << 30)) as cycle:
            yield
            share = cycle.frozen_share
        self.proves(
            f"stood still {cycle.freezes} times, {100 * share:.0f} % of the time", cycle.seen_stopped > 5
        )


class EdgeStarved(Scenario):
    """The edge gets CPU for half a millisecond at a time, less than checking a large body takes."""

    name = "edge CPU starved"
    cause = "edge"
    verdict = "routing"
    alert = "EdgeRunsLate"
    simulator = "--prefill-seconds-per-token 0.000002 --max-model-len 200000 --kv-tokens 1000000"
    per_second = 3.0
    window_seconds = 15.0
    WORDS = 40_000

    def __init__(self, draw: random.Random) -> None:
        super().__init__(draw)
        self._large = varied_prompts(self.WORDS, draw.randrange(1 << 30))

    def ask(self) -> Ask:
        return Ask(self._large())

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        freeze = round(self.draw.uniform(0.09, 0.15), 3)
        self.injected = f"edge stands about {freeze * 1e3:.0f} ms, then runs half a millisecond, in turns"
        with DutyCycle(pid_of(platform.stack, "edge"), freeze, 0.0005, self.draw.randrange(1 << 30)) as cycle:
            yield
            share = cycle.frozen_share
        self.proves(
            f"stood still {cycle.freezes} times, {100 * share:.0f} % of the time", cycle.seen_stopped > 5
        )

    def measured(self, platform: Platform, before: Sequence[Timing], after: Sequence[Timing]) -> float:
        """Return the edge's time from a request's first byte until it was forwarded, from its access log."""
        took: dict[str, float] = {}
        for line in (platform.stack.run_dir / "logs" / "edge.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if entry.get("event") == "request" and entry["forwarded_ms"] is not None:
                took[entry["request_id"]] = float(entry["forwarded_ms"]) / 1e3

        def mean(timings: Sequence[Timing]) -> float:
            return statistics.fmean(took[one.request_id] for one in timings if one.request_id in took)

        return mean(after) - mean(before)


class KvCacheFull(Scenario):
    """Both engines lose most of their KV cache, so they preempt requests and others wait."""

    name = "KV full and preempting"
    cause = "kv_cache_full"
    verdict = "capacity"
    alert = "BackendPreempting"
    also = frozenset({"PoolAtCapacity"})
    KV_TOKENS = 100_000

    simulator = f"--kv-tokens {KV_TOKENS}"

    def __init__(self, draw: random.Random) -> None:
        super().__init__(draw)
        self._neighbours = contextlib.ExitStack()

    def begin(self, platform: Platform) -> None:
        urls = [engine.url for engine in platform.engines.values()]
        self._neighbours.enter_context(Neighbours(urls, 10, 40, self._prompt()))

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        tokens = self.draw.randint(560, 800)
        self.injected = f"{tokens} of {self.KV_TOKENS} tokens of KV cache left"
        before = [engine.metric("vllm:num_preemptions_total") for engine in platform.engines.values()]
        with contextlib.ExitStack() as both:
            for engine in platform.engines.values():
                both.enter_context(engine.fault("kv_full", factor=tokens / self.KV_TOKENS))
            yield
        after = [engine.metric("vllm:num_preemptions_total") for engine in platform.engines.values()]
        gained = [new - old for old, new in zip(before, after, strict=True)]
        self.proves(f"preemptions {gained}", min(gained) > 0)

    def end(self) -> None:
        self._neighbours.close()


class StuckEngine(Scenario):
    """One engine keeps its requests without output, while its /health still answers 200."""

    name = "stuck engine"
    cause = "engine_stuck"
    backend = "backend-b"
    verdict = "execution"
    alert = "BackendStuck"
    also = frozenset({"BackendBreakerOpen"})
    settle_seconds = 0.0
    window_seconds = 16.0
    recovery_seconds = 14.0

    def ask(self) -> Ask:
        return Ask(self._prompt(), max_tokens=self.draw.randint(4, 10))

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        time.sleep(self.draw.uniform(0.0, 0.5))
        self.injected = "backend-b wedged"
        engine = platform.engines["b"]
        with engine.fault("wedge"):
            yield
            state = engine.state()
            healthy = httpx.get(f"{engine.url}/health", timeout=10).status_code == 200
        self.proves(f"no step {state['fault_hits'].get('wedge')} times, /health 200: {healthy}", healthy)


SCENARIOS: dict[str, type[Scenario]] = {
    kind.name: kind
    for kind in (
        EngineQueue, SlowEngine, LongPrompts, AffinityLost, EventLoopBlocked, EdgeStarved,
        KvCacheFull, StuckEngine,
    )
}  # fmt: skip
