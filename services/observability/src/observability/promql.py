"""Durations in rules and queries, scaled: a test on a live stack runs minutes as seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeScale:
    """``factor`` 1.0 is real time; 1/30 makes a 5-minute window 10 seconds long.

    No window gets shorter than ``least_seconds``: a rate needs two scrapes.
    """

    factor: float = 1.0
    least_seconds: float = 10.0

    def window(self, seconds: float) -> str:
        """A range or offset of that many seconds of real time."""
        return f"{max(round(seconds * self.factor), round(min(self.least_seconds, seconds)))}s"

    def hold(self, seconds: float) -> str:
        """How long a condition must hold; this may shrink to nothing."""
        return f"{round(seconds * self.factor)}s"

    def scrape(self, seconds: float) -> float:
        """The interval between two scrapes: never under a second."""
        return max(round(seconds * self.factor), 1) if self.factor < 1 else seconds


REAL_TIME = TimeScale()
