"""The start of a pool's first engine: how requests wait for it, and how long the last start took.

Knows no backend and no request. Times are seconds on the caller's clock.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """How requests for a pool without a usable backend wait: at most ``slots`` of them, each at most ``seconds``.

    ``comment_seconds`` is the interval of comments in a waiting event stream, 0 for none. ``fallbacks`` are the pools
    that may serve the requests instead.
    """

    seconds: float
    slots: int
    comment_seconds: float = 0.0
    fallbacks: tuple[str, ...] = ()


class Start:
    """``hold`` None: requests do not wait for a start. ``ready_at``: when the last awaited backend became usable.

    ``measured`` is the time from the first waiting request to the first usable backend, at the last start.
    ``reported`` is the duration of an engine's start as an agent of the pool reported it last; None: not known.
    ``results`` counts waits by their end.
    """

    __slots__ = ("awaited_since", "hold", "measured", "ready_at", "reported", "results")

    def __init__(self) -> None:
        self.hold: Hold | None = None
        self.awaited_since: float | None = None
        self.ready_at = 0.0
        self.measured: float | None = None
        self.reported: float | None = None
        self.results: dict[str, int] = {}

    @property
    def seconds(self) -> float | None:
        """How long the last start took: measured by this router, else as reported by an agent; None: not known."""
        return self.reported if self.measured is None else self.measured

    def awaited(self, now: float) -> None:
        """Record that a request waits since ``now``."""
        if self.awaited_since is None:
            self.awaited_since = now

    def ready(self, now: float) -> None:
        """Record that a backend became usable at ``now``."""
        if self.awaited_since is not None:
            self.measured = now - self.awaited_since
            self.awaited_since = None
            self.ready_at = now

    def count(self, result: str) -> None:
        """Count the end of a wait."""
        self.results[result] = self.results.get(result, 0) + 1
