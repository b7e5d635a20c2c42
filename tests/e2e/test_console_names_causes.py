"""The console, in a real browser, names each cause of the cause matrix within 60 s at every width and scheme.

The page Now names the layer and the alert; the page Why slower names the cause first. Only with `FULL=1`.
"""

import random
import re
import time
from pathlib import Path

import pytest

from harness.chaos.now_page import page_text
from harness.clients.stopwatch import Stopwatch
from harness.named_pages import NAMED_SECONDS, Page, show_everywhere
from harness.stacks.asked_platform import Platform, load_key
from harness.stacks.cache_scenarios import CACHE_SCENARIOS
from harness.stacks.cause_matrix import variables
from harness.stacks.cause_scenario import Scenario
from harness.stacks.cause_scenarios import SCENARIOS as LATE
from harness.stacks.faults import MODEL
from harness.stacks.local import running_stack

pytestmark = [pytest.mark.service, pytest.mark.full, pytest.mark.timeout(400)]

SCENARIOS = {**LATE, **CACHE_SCENARIOS}
WORDS = {
    "engine_queue": "engine queue",
    "slow_engine": "backend-b slower",
    "longer_prompts": "longer prompts",
    "affinity_lost": "affinity hits",
    "event_loop_blocked": "the router's event loop was blocked",
    "edge": "edge",
    "kv_cache_full": "KV cache full on",
    "engine_stuck": "backend-b was stuck",
    "cache_lost_by_routing": "routing lost the cache",
    "cache_evicted": "cache evicted on",
    "thinking_longer": "thinking got longer",
}
"""The first words of each cause in the console's sentence."""


def named_first(scenario: Scenario, text: str) -> str:
    """Return the sentence's beginning up to the first cause if that is the scenario's, "" otherwise."""
    head = rf"{re.escape(scenario.about)} [+-]\d+ ms \(\d+ -> \d+ ms\): {re.escape(WORDS[scenario.cause])}"
    found = re.search(head, " ".join(text.split()))
    return found[0] if found else ""


def on_now(scenario: Scenario) -> Page:
    none = scenario.verdict == "none"
    verdict = "no bottleneck" if none else f"the bottleneck is {scenario.verdict}"
    return Page("/", [verdict, *([scenario.alert] if scenario.alert else [])])


def show(platform: Platform, scenario: Scenario) -> None:
    """Measure a baseline, cause the fault, and read Why slower until it names it; then read both pages in browsers.

    The views are open while Now waits for its alert: opening a browser takes seconds.
    """
    scenario.prepare(platform)
    baseline_start = platform.scrape_after(time.time())
    start = platform.scrape_after(baseline_start + scenario.window_seconds)
    url, now = platform.stack.url("CONSOLE_PORT"), on_now(scenario)
    with scenario.fault(platform):
        began = time.monotonic()
        if not scenario.restarts:
            start = time.time()
        sentence, why = "", ""
        end = start + scenario.settle_seconds + scenario.window_seconds
        while not sentence:
            waited = time.monotonic() - began
            assert waited < NAMED_SECONDS, f"{scenario.name}: Why slower: {page_text(url + why)}"
            if time.time() > end + 2:
                window, baseline = f"{end - start:.0f}s", f"{max(start - baseline_start, 1):.0f}s"
                why = f"/why?window={window}&baseline={baseline}&until={end:.0f}"
                sentence = named_first(scenario, page_text(url + why))
                end = end if sentence else time.time()
            time.sleep(1.0)
        seconds = time.monotonic() - began
        print(f"{scenario.name}: {scenario.injected}; named after {seconds:.0f} s: {sentence}")
        pages = {"now": now, "why": Page(why, [sentence])}
        show_everywhere(url, f"cause: {scenario.name}", pages, began, seconds)
    print(f"  {scenario.proof}")


@pytest.mark.parametrize("name", SCENARIOS)
def test_both_pages_name_a_cause_at_every_width_and_scheme(name: str, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"{name}: seed {seed}")
    scenario = SCENARIOS[name](random.Random(seed))
    with running_stack("sim", tmp_path / "run", **variables(type(scenario), tmp_path)) as stack:
        port = int(stack.environment["EDGE_PORT"])
        stopwatch = Stopwatch(port, load_key(stack), MODEL, scenario.per_second, scenario.ask, seed)
        with stopwatch:
            platform = Platform(stack, stopwatch)
            try:
                scenario.begin(platform)
                time.sleep(10)
                show(platform, scenario)
            finally:
                platform.close()
                scenario.end()
