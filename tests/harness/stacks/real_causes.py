"""Three causes on two real vLLM engines.

They differ from the simulator's in their pace and in how an engine gets stuck.
"""

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator

import httpx
import psutil

from harness.clients.stopwatch import Ask, varied_prompts
from harness.stacks.asked_platform import Platform
from harness.stacks.cause_scenario import Scenario
from harness.stacks.cause_scenarios import EventLoopBlocked, LongPrompts, StuckEngine
from harness.stacks.faults import DutyCycle, is_stopped, pid_of

SHORT_WORDS, LONG_WORDS = 20, (250, 330)
"""Long prompts take longer than the objective and leave two engines on two cores half idle; more load would queue."""


class _OnVllm(Scenario):
    """Few short requests, because two engines and all services share the machine's cores."""

    per_second = 1.2
    window_seconds = 26.0
    settle_seconds = 3.0
    recovery_seconds = 10.0

    def __init__(self, draw: random.Random) -> None:
        super().__init__(draw)
        self._short = varied_prompts(SHORT_WORDS, draw.randrange(1 << 30))

    def ask(self) -> Ask:
        return Ask(self._short(), max_tokens=3)


class RealLongPrompts(_OnVllm, LongPrompts):
    """Prompts of another size class."""

    name = "vLLM: long prompts"
    also = frozenset({"TtftBudgetBurningFast", "PoolAtCapacity"})

    def __init__(self, draw: random.Random) -> None:
        super().__init__(draw)
        self._real_long: Callable[[], str] | None = None

    def ask(self) -> Ask:
        make = self._real_long or self._short
        return Ask(make(), max_tokens=3)

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        words = self.draw.randint(*LONG_WORDS)
        self.injected = f"prompts of {words} instead of {SHORT_WORDS} words"
        before = sum(engine.metric("vllm:prompt_tokens_total") for engine in platform.engines.values())
        self._real_long = varied_prompts(words, self.draw.randrange(1 << 30))
        try:
            yield
        finally:
            self._real_long = None
        tokens = (
            sum(engine.metric("vllm:prompt_tokens_total") for engine in platform.engines.values()) - before
        )
        self.proves(f"{tokens:.0f} prompt tokens", tokens > words * 10)


class RealEventLoopBlocked(_OnVllm, EventLoopBlocked):
    """As on the simulator, but longer, because vLLM's time to first token varies more."""

    name = "vLLM: router event loop blocked"
    also = frozenset({"TtftBudgetBurningFast", "TtftBudgetBurningSlowly"})

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        freeze = round(self.draw.uniform(0.8, 1.3), 3)
        self.injected = f"router blocked about {freeze * 1e3:.0f} ms, then runs about 100 ms, in turns"
        with DutyCycle(pid_of(platform.stack, "router"), freeze, 0.1, self.draw.randrange(1 << 30)) as cycle:
            yield
            share = cycle.frozen_share
        self.proves(
            f"stood still {cycle.freezes} times, {100 * share:.0f} % of the time", cycle.seen_stopped > 5
        )


class RealStuckEngine(_OnVllm, StuckEngine):
    """The process that runs the model is stopped; vLLM's API server still answers /health."""

    name = "vLLM: stuck engine"
    also = frozenset({"BackendBreakerOpen", "TtftBudgetBurningFast", "TtftBudgetBurningSlowly"})
    settle_seconds = 0.0
    recovery_seconds = 20.0

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        self.injected = "the engine core of backend-b stopped"
        core = engine_core(pid_of(platform.stack, "backend-b"))
        os.kill(core, signal.SIGSTOP)
        try:
            yield
            stopped = is_stopped(core)
            healthy = httpx.get(f"{platform.engines['b'].url}/health", timeout=10).status_code == 200
        finally:
            os.kill(core, signal.SIGCONT)
        self.proves(f"core stopped: {stopped}, /health 200: {healthy}", stopped and healthy)


def engine_core(engine: int) -> int:
    """Return the process that runs the model: the API server's largest child."""
    children = psutil.Process(engine).children(recursive=True)
    return int(max(children, key=lambda one: one.memory_info().rss).pid)


REAL: dict[str, type[Scenario]] = {
    kind.name: kind for kind in (RealLongPrompts, RealEventLoopBlocked, RealStuckEngine)
}
