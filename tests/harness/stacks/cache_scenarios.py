"""Causes of a late answer that only cached and thinking tokens tell apart, brought about on the engine simulator."""

import contextlib
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import yaml

from harness.clients.stopwatch import Ask, Timing, varied_prompts
from harness.stacks.asked_platform import POOL, Platform, ask_once
from harness.stacks.cause_scenario import Scenario
from harness.stacks.faults import MODEL
from harness.waiting import eventually


class _CachedPrompts(Scenario):
    """Many long contexts, each requested repeatedly under the policy `prefix_affinity`."""

    verdict = "none"
    restarts = True
    simulator = "--prefill-seconds-per-token 0.0004 --kv-tokens 60000"
    per_second = 2.5
    settle_seconds = 0.0
    window_seconds = 18.0
    CONTEXTS = 56
    WORDS = (700, 1100)
    MEMBERS: tuple[str, ...] = ("backend-a", "backend-b")
    """Backends of the pool before the fault."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__(draw)
        self._contexts: list[str] = []
        self._turn = 0
        self._config = Path()
        self._original = ""

    def ask(self) -> Ask:
        if not self._contexts:
            return super().ask()
        self._turn += 1
        return Ask(f"{self._contexts[(self._turn - 1) % len(self._contexts)]} {self._turn}", max_tokens=2)

    def begin(self, platform: Platform) -> None:
        self._config = platform.stack.run_dir / "router" / "router.yaml"
        self._original = self._config.read_text()

    def end(self) -> None:
        self._config.write_text(self._original)

    def set_pool(self, platform: Platform, members: Sequence[str]) -> None:
        """Configure the pool with these backends, and wait until the router uses exactly them."""
        config = yaml.safe_load(self._original)
        pool = config["pools"][POOL]
        pool["policy"] = "prefix_affinity"
        pool["backends"] = {name: pool["backends"][name] for name in members}
        text = json.dumps(config)
        if text == self._config.read_text():
            return
        before = self._hash(platform)
        self._config.write_text(text)

        def used() -> bool:
            rows = httpx.get(f"{platform.stack.router}/debug/backends", timeout=10).json()["backends"]
            here = {row["name"] for row in rows if row["unusable"] is None}
            return self._hash(platform) != before and here == set(members)

        eventually(used, f"the router uses {members}", 30)

    def _hash(self, platform: Platform) -> str:
        return str(httpx.get(f"{platform.stack.router}/debug/rules", timeout=10).json()["config_hash"])

    def prepare(self, platform: Platform) -> None:
        """New contexts, each requested once, so that the router and an engine know them."""
        platform.stopwatch.paused = True
        self.set_pool(platform, self.MEMBERS)
        words = self.draw.randint(*self.WORDS)
        make = varied_prompts(words, self.draw.randrange(1 << 30))
        contexts = [make() for _ in range(self.CONTEXTS)]
        self.injected = f"{len(contexts)} prefixes of {words} words"
        for context in contexts:
            ask_once(platform.stack, f"{context} 0")
        self._contexts, self._turn = contexts, 0
        platform.stopwatch.paused = False

    def pause(self, platform: Platform) -> None:
        """Send no more requests, and begin with the first context again."""
        platform.stopwatch.paused = True
        time.sleep(1.5)
        self._turn = 0


class CacheLostByRouting(_CachedPrompts):
    """A second backend joins the pool: half of the prefixes move to it, where nothing is cached."""

    name = "cache lost by routing"
    cause = "cache_lost_by_routing"
    MEMBERS = ("backend-a",)

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        self.pause(platform)
        engine = platform.engines["b"]
        hits, prompts = (
            engine.metric("vllm:prefix_cache_hits_total"),
            engine.metric("vllm:prompt_tokens_total"),
        )
        self.set_pool(platform, ("backend-a", "backend-b"))
        platform.stopwatch.paused = False
        yield
        computed = engine.metric("vllm:prompt_tokens_total") - prompts
        found = engine.metric("vllm:prefix_cache_hits_total") - hits
        # Each moved prefix is computed once; from the second round on it is cached at backend-b.
        rounds = max(self._turn / len(self._contexts), 1.0)
        self.proves(
            f"backend-b computed {computed:.0f} prompt tokens, {found:.0f} cached in {rounds:.1f} rounds",
            computed > 0 and found < (rounds - 0.5) * computed,
        )
        self._contexts = []


class CacheEvicted(_CachedPrompts):
    """Other long prompts at the engines push the known prefixes out of their caches."""

    name = "cache evicted"
    cause = "cache_evicted"
    FLOOD_TOKENS = 70_000

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        self.pause(platform)
        make = varied_prompts(1800, self.draw.randrange(1 << 30))
        count = -(-self.FLOOD_TOKENS // 1800)
        with ThreadPoolExecutor(2) as both:
            list(both.map(lambda engine: _flood(engine.url, make, count), platform.engines.values()))
        self.injected += f", {2 * count} other prompts of 1800 words"
        before = self._hits(platform)
        platform.stopwatch.paused = False
        yield
        hits = self._hits(platform) - before
        self.proves(
            f"{hits:.0f} cached tokens of {self._turn} prompts afterwards",
            hits < 200 * self._turn and self._turn > 10,
        )
        self._contexts = []

    def _hits(self, platform: Platform) -> float:
        return sum(engine.metric("vllm:prefix_cache_hits_total") for engine in platform.engines.values())


class ThinkingLonger(Scenario):
    """The model thinks longer before it answers; its first token comes as early as before."""

    name = "thinking got longer"
    cause = "thinking_longer"
    verdict = "none"
    about = "mean time to first answer token"
    per_second = 3.0
    window_seconds = 15.0

    def __init__(self, draw: random.Random) -> None:
        super().__init__(draw)
        self._tokens = 16

    def ask(self) -> Ask:
        return Ask(
            self._prompt(), max_tokens=self._tokens, more={"chat_template_kwargs": {"enable_thinking": True}}
        )

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        before = self._tokens
        self._tokens = self.draw.randint(60, 100)
        self.injected = f"thoughts of {self._tokens // 2} instead of {before // 2} tokens"
        began = time.time()
        try:
            yield
        finally:
            self._tokens = before
        ended = [one for one in platform.stopwatch.ended_between(began + 3, time.time()) if one.complete]
        gaps = [
            one.first_answer_seconds - (one.first_token_seconds or 0)
            for one in ended
            if one.first_answer_seconds
        ]
        self.proves(
            f"{len(gaps)} thoughts of {statistics.fmean(gaps):.2f} s", len(gaps) > 10 and min(gaps) > 0
        )

    def measured(self, platform: Platform, before: Sequence[Timing], after: Sequence[Timing]) -> float:
        def mean(timings: Sequence[Timing]) -> float:
            return statistics.fmean(one.first_answer_seconds for one in timings if one.first_answer_seconds)

        return mean(after) - mean(before)


def _flood(url: str, make: Callable[[], str], count: int) -> None:
    for _ in range(count):
        body = {"model": MODEL, "messages": [{"role": "user", "content": make()}], "max_tokens": 1}
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).raise_for_status()


CACHE_SCENARIOS: dict[str, type[Scenario]] = {
    kind.name: kind for kind in (CacheLostByRouting, CacheEvicted, ThinkingLonger)
}
