"""A circuit breaker for one backend: closed, open, half-open with one probe request, then slow start."""

from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]

MIN_RAMP = 0.1
"""Share of its normal load that a backend gets right after it recovers."""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """``failures`` in a row open it for ``open_seconds``; recovery ramps up over ``slow_start_seconds``."""

    failures: int = 5
    open_seconds: float = 10.0
    slow_start_seconds: float = 30.0


class Breaker:
    """Counts consecutive failures. The caller decides what a failure is: never a 4xx, never a client's disconnect.

    The first request that begins while the breaker is half-open is the probe; :meth:`begin` blocks the others. The
    probe's end (:meth:`succeeded`, :meth:`failed` or :meth:`cancelled`) decides the next state.
    """

    __slots__ = ("_failures", "_opened_at", "_probing", "_recovered_at", "_settings", "state")

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._failures = 0
        self._opened_at = 0.0
        self._recovered_at: float | None = None
        self._probing = False
        self.state: State = "closed"

    def reconfigure(self, settings: BreakerSettings) -> None:
        """Replace the settings and keep the counted failures."""
        self._settings = settings

    def blocked(self, now: float) -> bool:
        """Return whether requests are blocked. An open breaker becomes half-open here once its time is over."""
        if self.state == "closed":
            return False
        if self.state == "open":
            if now - self._opened_at < self._settings.open_seconds:
                return True
            self.state = "half_open"
            self._probing = False
        return self._probing

    def begin(self) -> None:
        """Record the start of a request."""
        if self.state == "half_open":
            self._probing = True

    def succeeded(self, now: float) -> None:
        """Record a success. While the breaker is open, the request began before it opened."""
        if self.state == "open":
            return
        self._failures = 0
        if self.state != "closed":
            self.state = "closed"
            self._probing = False
            self._recovered_at = now

    def failed(self, now: float) -> None:
        """Record a request that failed because of the backend."""
        self._failures += 1
        if self.state == "half_open" or (
            self.state == "closed" and self._failures >= self._settings.failures
        ):
            self.state = "open"
            self._opened_at = now
            self._probing = False

    def cancelled(self) -> None:
        """Record a request that ended without a result about the backend; another request may be the probe."""
        self._probing = False

    def came_back(self, now: float) -> None:
        """Start slow start for a backend that has become ready again."""
        self._recovered_at = now

    def ramp(self, now: float) -> float:
        """Return the share of its normal load that the backend may receive, from ``MIN_RAMP`` to 1."""
        if self._recovered_at is None:
            return 1.0
        whole = self._settings.slow_start_seconds
        share = (now - self._recovered_at) / whole if whole > 0 else 1.0
        if share >= 1.0:
            self._recovered_at = None
            return 1.0
        return max(MIN_RAMP, share)
