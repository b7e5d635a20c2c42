"""Runs cause scenarios on a live stack: control, fault, the client's measurement and the platform's report.

A scenario injects one cause (`cause_scenarios`). This module asserts nothing about the report; the test does.
"""

import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.clients.stopwatch import Stopwatch, mean_first_token
from harness.stacks.asked_platform import POOL, Platform, load_key
from harness.stacks.cause_scenario import Scenario
from harness.stacks.faults import MODEL
from harness.stacks.local import Stack

TIME_SCALE = 1 / 30
SLOW_FIRST_TOKEN_SECONDS = 0.4
CONCLUDED_SECONDS = 150.0
"""Longest fault in seconds; it ends once verdict and alert appear, and some alerts wait half a minute."""

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


@dataclass
class Trial:
    """One injection: the fault, the client's measurement and the platform's report, in seconds."""

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
        """Return the platform's relative error against the measured value."""
        return abs(self.named_seconds - self.measured_seconds) / abs(self.measured_seconds)


@dataclass
class Quiet:
    """The control: the same traffic without a fault, window against window."""

    changes_seconds: list[float] = field(default_factory=list)
    """Change of the client's mean from one window to the next."""
    named: list[str] = field(default_factory=list)
    """Causes reported without a fault."""
    verdicts: set[str] = field(default_factory=set)
    alerts: set[str] = field(default_factory=set)

    @property
    def noise_seconds(self) -> float:
        """Return the largest change without a fault, NaN if no control was run."""
        return max(map(abs, self.changes_seconds), default=math.nan)


@dataclass
class Watched:
    """What the platform reported during a fault, in seconds since its start (None: never)."""

    verdict_seconds: float | None = None
    alert_seconds: float | None = None
    verdicts: list[str] = field(default_factory=list)
    alerts: set[str] = field(default_factory=set)


@dataclass
class Result:
    """One scenario's trials."""

    scenario: Scenario
    seed: int
    trials: list[Trial] = field(default_factory=list)
    watched: Watched = field(default_factory=Watched)
    quiet: Quiet = field(default_factory=Quiet)

    @property
    def median_error(self) -> float:
        return statistics.median(trial.error for trial in self.trials)


def variables(scenario: type[Scenario], folder: Path) -> dict[str, str]:
    """Return the variables that start a stack for this scenario."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "router.yaml"
    config.write_text(ROUTER_CONFIG)
    return {
        "ROUTER_CONFIG": str(config),
        "OBSERVABILITY_TIME_SCALE": f"{TIME_SCALE:.5f}",
        "SIMULATOR_ARGUMENTS": scenario.simulator,
    }


def run(stack: Stack, kind: type[Scenario], seed: int, trials: int, *, control: bool = True) -> Result:
    """Run a scenario ``trials`` times; the first trial lasts until verdict and alert appear.

    ``control``: measure windows without a fault first. Without it, the result has no noise.
    """
    scenario = kind(random.Random(seed))
    result = Result(scenario, seed)
    port = int(stack.environment["EDGE_PORT"])
    stopwatch = Stopwatch(port, load_key(stack), MODEL, kind.per_second, scenario.ask, seed)
    with stopwatch:
        platform = Platform(stack, stopwatch)
        try:
            scenario.begin(platform)
            time.sleep(10)
            if control:
                result.quiet = _quiet(platform, scenario, windows=max(trials, 2))
            for number in range(trials):
                result.trials.append(_trial(platform, scenario, result.watched if number == 0 else None))
                if number + 1 < trials:
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
        answer = platform.why(before, after, scenario.about)
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
    start = baseline_end
    with scenario.fault(platform):
        began = time.time()
        if not scenario.restarts:
            start = platform.scrape_after(began + scenario.settle_seconds)
        seen = Watched() if watched is None else watched
        end = 0.0
        while True:
            _look(platform, scenario, seen, time.time() - began)
            if not end and time.time() >= max(start, began) + scenario.window_seconds:
                end = platform.scrape_after(time.time())
            concluded = seen.verdict_seconds is not None and (
                not scenario.alert or seen.alert_seconds is not None
            )
            waits = time.time() - began < CONCLUDED_SECONDS
            if end and (watched is None or concluded or not waits):
                break
            time.sleep(0.5)
    before = platform.stopwatch.ended_between(baseline_start, baseline_end)
    after = platform.stopwatch.ended_between(start, end)
    answer = platform.why((baseline_start, baseline_end), (start, end), scenario.about)
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
    """Return the results as a Markdown table, with the milliseconds of the trial with the median error."""
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
