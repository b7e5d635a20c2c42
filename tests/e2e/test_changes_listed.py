"""Changes injected into a live stack are listed within 30 s with their true time; quiet load lists none.

The short form injects some kinds at random times; `FULL=1` injects all of them three times, and waits for a quiet hour.
"""

import itertools
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.clients.stopwatch import Ask, Stopwatch
from harness.stacks.asked_platform import load_key
from harness.stacks.change_scenarios import Changer, Expected, Seen, Watcher, router_configuration
from harness.stacks.faults import MODEL
from harness.stacks.local import Stack, running_stack

LISTED_SECONDS = 30.0
ACCURACY_SECONDS = 5.0
SHORT = ("edge keys", "rules", "engine version, model file and image", "pool members")
ROUNDS = 3
PER_SECOND = 4.0
QUIET_PER_SECOND = 2.0
QUIET_SECONDS = float(os.environ.get("QUIET_SECONDS", "3600"))


@contextmanager
def loaded_stack(folder: Path, seed: int, per_second: float = PER_SECOND) -> Iterator[Stack]:
    """A stack with real scrape intervals under quiet load, half of the requests with sessions."""
    numbers = itertools.count()

    def ask() -> Ask:
        number = next(numbers)
        return Ask(f"Tell me about {number}.", {"x-session-id": f"s{number % 9}"} if number % 2 else {})

    config = router_configuration(folder)
    with running_stack("sim", folder / "run", ROUTER_CONFIG=str(config)) as stack:
        with Stopwatch(
            int(stack.environment["EDGE_PORT"]), load_key(stack), MODEL, per_second, ask, seed
        ) as load:
            yield stack
        assert load.timings


def _accurate(expected: Expected, seen: Seen | None) -> bool:
    return seen is not None and abs(seen.change.at - expected.at) <= ACCURACY_SECONDS


def wrong_about(expected: Expected, watcher: Watcher) -> str:
    """Return what is wrong with the listing of a change, "" if nothing is."""
    deadline = time.time() + LISTED_SECONDS
    while not _accurate(expected, seen := watcher.find(expected)) and time.time() < deadline:
        time.sleep(0.5)  # an earlier change of the same words may be listed already
    if seen is None:
        return f"not listed: {expected.pattern}"
    error, delay = seen.change.at - expected.at, seen.listed_at - expected.at
    print(f"  {seen.change.words}: {error:+.1f} s, listed after {delay:.1f} s")
    if abs(error) > ACCURACY_SECONDS:
        return f"listed {error:+.1f} s off: {seen.change.words}"
    return f"listed after {delay:.1f} s: {seen.change.words}" if delay > LISTED_SECONDS else ""


def inject(stack: Stack, folder: Path, kinds: tuple[str, ...], draw: random.Random) -> list[str]:
    """Inject changes at random times; return what was wrong."""
    changer = Changer(stack, folder, draw)
    wrong = []
    with Watcher(stack) as watcher:
        changer.pause(0, 5)
        for kind in kinds:
            print(kind)
            expected = changer.kinds()[kind]()
            wrong += [f"{kind}: {text}" for one in expected if (text := wrong_about(one, watcher))]
            changer.pause(0, 6)
    return wrong


@pytest.mark.service
@pytest.mark.timeout(300)
def test_changes_are_listed_with_their_times(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    with loaded_stack(tmp_path, seed) as stack:
        assert inject(stack, tmp_path, SHORT, random.Random(seed)) == []


@pytest.mark.service
@pytest.mark.full
@pytest.mark.timeout(3000)
def test_every_kind_is_listed_with_its_time(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    draw = random.Random(seed)
    with loaded_stack(tmp_path, seed) as stack:
        time.sleep(30)  # a change is the difference from a state that was scraped before it
        kinds = tuple(Changer(stack, tmp_path, draw).kinds())
        wrong = [
            text
            for _ in range(ROUNDS)
            for text in inject(stack, tmp_path, draw.sample(kinds, len(kinds)), draw)
        ]
        assert wrong == []


@pytest.mark.service
@pytest.mark.full
@pytest.mark.timeout(400 + QUIET_SECONDS)
def test_a_quiet_hour_lists_nothing(tmp_path: Path) -> None:
    """The start of the stack is over after a minute; from then on every listed change is a false one."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    with loaded_stack(tmp_path, seed, QUIET_PER_SECOND) as stack:
        time.sleep(60)
        with Watcher(stack) as watcher:
            print(f"from {time.strftime('%H:%M:%S', time.gmtime())} UTC")
            time.sleep(QUIET_SECONDS)
            print(f"to {time.strftime('%H:%M:%S', time.gmtime())} UTC, {watcher.readings} readings")
        assert [seen.change for seen in watcher.seen] == []
        assert watcher.readings > QUIET_SECONDS / 10
