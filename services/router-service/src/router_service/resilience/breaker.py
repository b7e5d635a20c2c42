"""A circuit breaker for one backend: closed, open, half-open with one probe request, then slow start."""

from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half_open"]

MIN_RAMP = 0.1
"""Share of its normal load that a backend gets right after it came back."""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """``failures`` in a row open it for ``open_seconds``; recovery ramps up over ``slow_start_seconds``."""

    failures: int = 5
    open_seconds: float = 10.0
    slow_start_seconds: float = 30.0


class Breaker:
    """Counts failures in a row. Only the caller knows what a failure is: never a 4xx, never a client's leaving.

    A request that begins while the breaker is half-open is the probe: :meth:`begin` lets exactly one
    through, and its end (:meth:`succeeded`, :meth:`failed` or :meth:`cancelled`) decides.
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
        """Use other settings from now on; what was counted stays."""
        self._settings = settings

    def blocked(self, now: float) -> bool:
        """Whether no request may begin now. An open breaker becomes half-open here, when its time is over."""
        if self.state == "closed":
            return False
        if self.state == "open":
            if now - self._opened_at < self._settings.open_seconds:
                return True
            self.state = "half_open"
            self._probing = False
        return self._probing

    def begin(self) -> None:
        """A request begins."""
        if self.state == "half_open":
            self._probing = True

    def succeeded(self, now: float) -> None:
        """A request that began got a proper answer. While the breaker is open that is one from before."""
        if self.state == "open":
            return
        self._failures = 0
        if self.state != "closed":
            self.state = "closed"
            self._probing = False
            self._recovered_at = now

    def failed(self, now: float) -> None:
        """A request that began failed through the backend's fault."""
        self._failures += 1
        if self.state == "half_open" or (
            self.state == "closed" and self._failures >= self._settings.failures
        ):
            self.state = "open"
            self._opened_at = now
            self._probing = False

    def cancelled(self) -> None:
        """A request that began ended without saying anything about the backend; another may be the probe."""
        self._probing = False

    def came_back(self, now: float) -> None:
        """The backend is ready again after it was not: start slowly."""
        self._recovered_at = now

    def ramp(self, now: float) -> float:
        """Share of its normal load the backend may take now, from ``MIN_RAMP`` to 1."""
        if self._recovered_at is None:
            return 1.0
        whole = self._settings.slow_start_seconds
        share = (now - self._recovered_at) / whole if whole > 0 else 1.0
        if share >= 1.0:
            self._recovered_at = None
            return 1.0
        return max(MIN_RAMP, share)
