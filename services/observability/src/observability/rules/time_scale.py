"""Scaled durations for rules and queries, so that tests on a live stack turn minutes into seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeScale:
    """``factor`` 1.0 is real time; 1/30 makes a 5-minute window 10 seconds long.

    No window is shorter than ``least_seconds``, because a rate needs two scrapes.
    """

    factor: float = 1.0
    least_seconds: float = 10.0

    def window(self, seconds: float) -> str:
        """Return a PromQL range or offset for ``seconds`` of real time."""
        return f"{max(round(seconds * self.factor), round(min(self.least_seconds, seconds)))}s"

    def hold(self, seconds: float) -> str:
        """Return the `for` duration of an alert for ``seconds`` of real time; it may become 0s."""
        return f"{round(seconds * self.factor)}s"

    def scrape(self, seconds: float) -> float:
        """Return the scrape interval in seconds, at least one when scaled down."""
        return max(round(seconds * self.factor), 1) if self.factor < 1 else seconds


REAL_TIME = TimeScale()
