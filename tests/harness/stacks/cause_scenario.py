"""The base of every scenario of a late first token: baseline, fault and proof.

Sizes are drawn from the run's random source. Every scenario proves that its fault happened.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

from harness.clients.stopwatch import Ask, Timing, mean_first_token, varied_prompts
from harness.stacks.asked_platform import Platform

BASE_WORDS = 100


class Scenario:
    """One cause. ``draw`` is the run's random source; subclasses implement the fault."""

    name: ClassVar[str]
    cause: ClassVar[str]
    """The cause that `why-ttft` must name first."""
    backend: ClassVar[str] = ""
    verdict: ClassVar[str]
    alert: ClassVar[str] = ""
    """Empty: no alert is about it."""
    about: ClassVar[str] = "mean time to first token"
    """The mean that it changes."""
    also: ClassVar[frozenset[str]] = frozenset()
    """Further allowed alerts; all others are errors."""
    simulator: ClassVar[str] = ""
    """Further arguments of the engine simulator."""
    per_second: ClassVar[float] = 8.0
    restarts: ClassVar[bool] = False
    """The window begins at the end of the baseline, because the fault takes a while and no request is sent meanwhile."""
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
        """Prepare once, before the first measurement."""

    def end(self) -> None:
        """Clean up once, at the end."""

    def prepare(self, platform: Platform) -> None:
        """Prepare each trial, before its baseline."""

    @contextlib.contextmanager
    def fault(self, platform: Platform) -> Iterator[None]:
        """Inject the fault while the block runs; set ``injected`` and, at the end, ``proof``."""
        yield

    def measured(self, platform: Platform, before: Sequence[Timing], after: Sequence[Timing]) -> float:
        """Return by how many seconds the cause raised the mean, measured without the platform's metrics."""
        return mean_first_token(after) - mean_first_token(before)

    def proves(self, proof: str, holds: bool) -> None:
        """Store the proof of the fault.

        Raises:
            AssertionError: the fault did not happen, so the trial is invalid.
        """
        self.proof = proof
        assert holds, f"{self.name}: the fault did not happen: {proof}"
