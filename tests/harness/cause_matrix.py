"""The matrix of causes: each one injected for real into a live stack, measured by a client, and asked of the platform.

A scenario says how a cause is brought about and what the platform must then say. Sizes are drawn from a seed.
Nothing here asserts what was said: a test does.
"""

import contextlib
import json
import os
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx

from harness.router_fleet import eventually
from harness.stack_faults import DutyCycle, Neighbours, SimulatedEngine, frozen, pid_of
from harness.stacks import ROOT, Stack
from harness.stopwatch import Ask, Stopwatch, Timing, mean_first_token, varied_prompts

MODEL = "smollm2-135m-instruct"
POOL = "general"
TIME_SCALE = 1 / 30
SLOW_FIRST_TOKEN_SECONDS = 0.4
VERDICT_SECONDS = 60.0
BASE_WORDS = 100

ROUTER_CONFIG = f"""\
server: {{host: 127.0.0.1, port: 8000}}
pools:
  {POOL}:
    policy: round_robin
    models: [{MODEL}]
    backends:
      backend-a: {{url: "http://127.0.0.1:8101", health_url: "http://127.0.0.1:8111/readyz"}}
      backend-b: {{url: "http://127.0.0.1:8102", health_url: "http://127.0.0.1:8112/readyz"}}
routing: {{default_pool: {POOL}}}
affinity: {{enabled: true, header: x-session-id, ttl_seconds: 1800}}
redis: {{url: "redis://127.0.0.1:6380/0"}}
timeouts: {{connect_seconds: 1.0, first_token_seconds: 4, idle_seconds: 30, total_seconds: 600}}
retries: {{max_attempts: 3, budget_ratio: 0.5, budget_min: 16, on_status: [502, 503, 504]}}
breaker: {{failures: 5, open_seconds: 10, slow_start_seconds: 0, max_ejected_ratio: 0.5}}
telemetry: {{slow_first_token_seconds: {SLOW_FIRST_TOKEN_SECONDS}}}
"""


class Platform:
    """A running stack with its Prometheus, and the load that is measured."""

    def __init__(self, stack: Stack, stopwatch: Stopwatch) -> None:
        self.stack = stack
        self.stopwatch = stopwatch
        self.engines = {letter: SimulatedEngine(stack, letter) for letter in "ab"}
        self._http = httpx.Client(base_url=stack.url("PROMETHEUS_PORT"), timeout=20, trust_env=False)

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Evaluate PromQL now or at an epoch time."""
        parameters = {"query": expression} if at is None else {"query": expression, "time": f"{at:.3f}"}
        answer = self._http.get("/api/v1/query", params=parameters)
        answer.raise_for_status()
        return [(r["metric"], float(r["value"][1])) for r in answer.json()["data"]["result"]]

    def scrape_after(self, moment: float) -> float:
        """Wait for the router's first scrape at or after an epoch time; return when it was."""

        def found() -> float | None:
            times = [value for _, value in self.query("max(timestamp(router_config_info))")]
            return times[0] if times and times[0] >= moment else None

        time.sleep(max(0.0, moment - time.time()))
        at: float = eventually(found, "the router is scraped", 60)
        return at

    def verdict(self) -> str:
        """Return the pool's verdict now, "" while there is none."""
        found = self.query(f'pool:bottleneck:verdict{{pool="{POOL}"}} == 1')
        return found[0][0]["verdict"] if len(found) == 1 else ""

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {labels["alertname"] for labels, _ in self.query('ALERTS{alertstate="firing"}')}

    def why(self, before: tuple[float, float], after: tuple[float, float]) -> dict[str, Any]:
        """Ask `scripts/why-ttft` about two spans of time; return its answer about all requests."""
        window = after[1] - after[0]
        command = [
            *(str(ROOT / "scripts" / "why-ttft"), "--json"),
            *("--prometheus", self.stack.url("PROMETHEUS_PORT"), "--until", f"{after[1] + 0.001:.3f}"),
            *("--window", f"{window:.3f}s", "--baseline", f"{before[1] - before[0]:.3f}s"),
            *("--baseline-ago", f"{after[0] - before[1]:.3f}s"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)["mean time to first token"]
        return answer

    def close(self) -> None:
        self._http.close()


@dataclass
class Trial:
    """One injection: what was done, what the client measured, what the platform said (seconds)."""

    injected: str
    proof: str
    measured_seconds: float
    named: str
    named_backend: str
    named_seconds: float
    words: str
    causes: str
    slow_share: float
    requests: int

    @property
    def error(self) -> float:
        """By how much the platform's figure differs from the measured one, as a share of it."""
        return abs(self.named_seconds - self.measured_seconds) / abs(self.measured_seconds)


@dataclass
class Quiet:
    """The control: the same traffic without a fault, window against window."""

    changes_seconds: list[float] = field(default_factory=list)
    """By how much the client's mean changed from one window to the next."""
    named: list[str] = field(default_factory=list)
    """Causes that were named although there was none."""
    verdicts: set[str] = field(default_factory=set)
    alerts: set[str] = field(default_factory=set)

    @property
    def noise_seconds(self) -> float:
        return max(map(abs, self.changes_seconds))


@dataclass
class Watched:
    """What the platform concluded while a fault was on; seconds since it began, None: never."""

    verdict_seconds: float | None = None
    alert_seconds: float | None = None
    verdicts: list[str] = field(default_factory=list)
    alerts: set[str] = field(default_factory=set)


@dataclass
class Result:
    """One scenario's trials."""

    scenario: "Scenario"
    seed: int
    trials: list[Trial] = field(default_factory=list)
    watched: Watched = field(default_factory=Watched)
    quiet: Quiet = field(default_factory=Quiet)

    @property
    def median_error(self) -> float:
        return statistics.median(trial.error for trial in self.trials)


class Scenario:
    """One cause. ``draw`` is the run's own random source; subclasses say what happens."""

    name: ClassVar[str]
    cause: ClassVar[str]
    """What `why-ttft` must name first."""
    backend: ClassVar[str] = ""
    verdict: ClassVar[str]
    alert: ClassVar[str]
    also: ClassVar[frozenset[str]] = frozenset()
    """Alerts that are right too; all others are wrong."""
    simulator: ClassVar[str] = ""
    per_second: ClassVar[float] = 8.0
    settle_seconds: ClassVar[float] = 1.5
    window_seconds: ClassVar[float] = 12.0
    recovery_seconds: ClassVar[float] = 5.0

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self._prompt = varied_prompts(BASE_WORDS, draw.randrange(1 << 30))
        self.injected = ""
        self.proof = ""

    def ask(self) -> Ask:
        """The next request."""
        return Ask(self._prompt())

    def begin(self, platform: Platform) -> None:
        """Once, before anything is measured."""

    def end(self) -> None:
        """Once, at the end."""

    def prepare(self, platform: Platform) -> None:
        """Before each trial's baseline."""

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        """The fault, while the block runs; leaves ``injected`` and, at the end, ``proof``."""
        yield

    def measured(self, platform: Platform, before: Sequence[Timing], after: Sequence[Timing]) -> float:
        """By how many seconds the cause raised the mean, measured without asking the platform's metrics."""
        return mean_first_token(after) - mean_first_token(before)

    def proves(self, proof: str, holds: bool) -> None:
        """Keep the proof of the fault.

        Raises:
            AssertionError: it does not hold: the trial says nothing.
        """
        self.proof = proof
        assert holds, f"{self.name}: the fault did not happen: {proof}"


class EngineQueue(Scenario):
    """Both engines have more to do than they can run at once."""

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
    """Redis is frozen and the router starts anew: it knows no pins, and many sessions move."""

    name = "affinity lost"
    cause = "affinity_lost"
    verdict = "routing"
    alert = "AffinityStoreDown"
    also = frozenset({"TargetDown"})  # of the router, while it starts
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
        """New sessions whose first turn meets only backend-a, so that all are pinned and cached there."""
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
        with frozen(pid):  # its /readyz is silent: the router sends nothing to backend-b
            eventually(lambda: usable_backends() == 1, "backend-b is out", 30)
            for session, context in contexts:
                _ask_once(platform, f"{context} 0", session)
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
    """Something keeps the router's event loop for a fraction of a second, again and again."""

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
    """The edge gets the processor for half a millisecond now and then, less than checking a large body takes."""

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
        freeze = round(self.draw.uniform(0.05, 0.09), 3)
        self.injected = f"edge stands about {freeze * 1e3:.0f} ms, then runs half a millisecond, in turns"
        with DutyCycle(pid_of(platform.stack, "edge"), freeze, 0.0005, self.draw.randrange(1 << 30)) as cycle:
            yield
            share = cycle.frozen_share
        self.proves(
            f"stood still {cycle.freezes} times, {100 * share:.0f} % of the time", cycle.seen_stopped > 5
        )

    def measured(self, platform: Platform, before: Sequence[Timing], after: Sequence[Timing]) -> float:
        """The edge's own stopwatch, from a request's first byte until it went on, as its access log has it."""
        took: dict[str, float] = {}
        for line in (platform.stack.run_dir / "logs" / "edge.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if entry.get("event") == "request" and entry["forwarded_ms"] is not None:
                took[entry["request_id"]] = float(entry["forwarded_ms"]) / 1e3

        def mean(timings: Sequence[Timing]) -> float:
            return statistics.fmean(took[one.request_id] for one in timings if one.request_id in took)

        return mean(after) - mean(before)


class KvCacheFull(Scenario):
    """Most of both engines' KV cache is gone: they preempt, and others wait."""

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
    """One engine holds its requests and gives nothing, while its /health goes on answering 200."""

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


def _ask_once(platform: Platform, content: str, session: str) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 2,
        "stream": False,
    }
    headers = {"authorization": f"Bearer {load_key(platform.stack)}", "x-session-id": session}
    httpx.post(
        f"{platform.stack.edge}/v1/chat/completions", json=body, headers=headers, timeout=60
    ).raise_for_status()


def load_key(stack: Stack) -> str:
    """Return the key of the client without limits."""
    return stack.client_environment()["OPENAI_API_KEY_LOAD"]


def variables(scenario: type[Scenario], folder: Path) -> dict[str, str]:
    """Return what a stack of this scenario is started with."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "router.yaml"
    config.write_text(ROUTER_CONFIG)
    return {
        "ROUTER_CONFIG": str(config),
        "OBSERVABILITY_TIME_SCALE": f"{TIME_SCALE:.5f}",
        "SIMULATOR_ARGUMENTS": scenario.simulator,
    }


def run(stack: Stack, kind: type[Scenario], seed: int, trials: int) -> Result:
    """Bring a scenario about ``trials`` times; the first time until verdict and alert are there."""
    scenario = kind(random.Random(seed))
    result = Result(scenario, seed)
    port = int(stack.environment["EDGE_PORT"])
    stopwatch = Stopwatch(port, load_key(stack), MODEL, kind.per_second, scenario.ask, seed)
    with stopwatch:
        platform = Platform(stack, stopwatch)
        try:
            scenario.begin(platform)
            time.sleep(10)
            result.quiet = _quiet(platform, scenario, windows=trials if trials > 1 else 2)
            for number in range(trials):
                result.trials.append(_trial(platform, scenario, result.watched if number == 0 else None))
                time.sleep(scenario.recovery_seconds)
        finally:
            platform.close()
            scenario.end()
    return result


def _quiet(platform: Platform, scenario: Scenario, windows: int) -> Quiet:
    """Compare ``windows`` windows without a fault, each with the one before it."""
    found = Quiet()
    before = (
        platform.scrape_after(time.time()),
        platform.scrape_after(time.time() + scenario.window_seconds),
    )
    for _ in range(windows - 1):
        after = (before[1], platform.scrape_after(before[1] + scenario.window_seconds))
        means = [mean_first_token(platform.stopwatch.ended_between(*span)) for span in (before, after)]
        found.changes_seconds.append(means[1] - means[0])
        answer = platform.why(before, after)
        if answer["changed"]:
            found.named.append(answer["causes"][0]["name"])
        found.verdicts.add(platform.verdict())
        found.alerts |= platform.firing()
        before = after
    return found


def _trial(platform: Platform, scenario: Scenario, watched: Watched | None) -> Trial:
    scenario.prepare(platform)
    baseline_start = platform.scrape_after(time.time())
    baseline_end = platform.scrape_after(baseline_start + scenario.window_seconds)
    if isinstance(scenario, AffinityLost):
        start = baseline_end
    with scenario.fault(platform):
        began = time.time()
        if not isinstance(scenario, AffinityLost):
            start = platform.scrape_after(began + scenario.settle_seconds)
        seen = Watched() if watched is None else watched
        end = 0.0
        while True:
            _look(platform, scenario, seen, time.time() - began)
            if not end and time.time() >= max(start, began) + scenario.window_seconds:
                end = platform.scrape_after(time.time())
            concluded = seen.verdict_seconds is not None and seen.alert_seconds is not None
            waits = time.time() - began < VERDICT_SECONDS
            if end and (watched is None or concluded or not waits):
                break
            time.sleep(0.5)
    before = platform.stopwatch.ended_between(baseline_start, baseline_end)
    after = platform.stopwatch.ended_between(start, end)
    answer = platform.why((baseline_start, baseline_end), (start, end))
    nothing = {"name": "", "backend": "", "seconds": 0.0, "words": ""}
    first: dict[str, Any] = answer["causes"][0] if answer["changed"] else nothing
    slow = [one for one in after if (one.first_token_seconds or 0.0) > SLOW_FIRST_TOKEN_SECONDS]
    return Trial(
        injected=scenario.injected,
        proof=scenario.proof,
        measured_seconds=scenario.measured(platform, before, after),
        named=first["name"],
        named_backend=first["backend"],
        named_seconds=first["seconds"],
        words=first["words"],
        causes=", ".join(f"{one['words']} {one['seconds'] * 1e3:+.0f}" for one in answer["causes"]),
        slow_share=len(slow) / max(len(after), 1),
        requests=len(after),
    )


def _look(platform: Platform, scenario: Scenario, seen: Watched, seconds: float) -> None:
    verdict = platform.verdict()
    if verdict and (not seen.verdicts or seen.verdicts[-1] != verdict):
        seen.verdicts.append(verdict)
    if seen.verdict_seconds is None and verdict == scenario.verdict:
        seen.verdict_seconds = seconds
    alerts = platform.firing()
    seen.alerts |= alerts
    if seen.alert_seconds is None and scenario.alert in alerts:
        seen.alert_seconds = seconds


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table; milliseconds are those of the trial with the median error."""
    head = "cause, injected, noise ms, measured ms, named first, its ms, median error, verdict after s, alerts after s"
    columns = head.split(", ")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for result in results:
        seen = result.watched
        trial = sorted(result.trials, key=lambda one: one.error)[len(result.trials) // 2]
        right = sum(one.named == result.scenario.cause for one in result.trials)
        lines.append(
            f"| {result.scenario.name} | {trial.injected} | {result.quiet.noise_seconds * 1e3:.0f}"
            f" | {trial.measured_seconds * 1e3:+.0f} | {trial.named or 'none'} ({right} of {len(result.trials)})"
            f" | {trial.named_seconds * 1e3:+.0f} | {100 * result.median_error:.1f} %"
            f" | {result.scenario.verdict} {_seconds(seen.verdict_seconds)}"
            f" | {', '.join(sorted(seen.alerts)) or 'none'} {_seconds(seen.alert_seconds)} |"
        )
    named = [name for result in results for name in result.quiet.named]
    windows = sum(len(result.quiet.changes_seconds) for result in results)
    missed = sum(one.named != result.scenario.cause for result in results for one in result.trials)
    trials = sum(len(result.trials) for result in results)
    lines += [
        "",
        f"Without a fault a cause was named in {len(named)} of {windows} windows; with one, another or none was named",
        f"first in {missed} of {trials} trials. Seeds: {', '.join(str(result.seed) for result in results)}.",
    ]
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f}"
