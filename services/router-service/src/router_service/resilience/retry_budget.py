"""Limits the router's concurrent retries, so that retries never multiply an outage."""


class RetryBudget:
    """Allows retries up to a share of the requests in progress, and always a minimum number.

    The share refers to requests in progress (as in Envoy's retry budget), so that it neither accumulates while
    traffic is low nor needs a clock.
    """

    __slots__ = ("_minimum", "_ratio", "active", "retrying")

    def __init__(self, ratio: float = 0.2, minimum: int = 3) -> None:
        self._ratio = ratio
        self._minimum = minimum
        self.active = 0
        self.retrying = 0

    def reconfigure(self, ratio: float, minimum: int) -> None:
        """Replace the limits; running retries continue."""
        self._ratio = ratio
        self._minimum = minimum

    @property
    def limit(self) -> int:
        """Largest number of concurrent retries at present."""
        return max(self._minimum, int(self.active * self._ratio))

    @property
    def remaining(self) -> int:
        """Number of retries that may start at present."""
        return max(0, self.limit - self.retrying)

    def enter(self) -> None:
        """Count a request that begins."""
        self.active += 1

    def leave(self) -> None:
        """Count the end of a request that entered, whatever its outcome."""
        self.active -= 1
        assert self.active >= 0

    def try_spend(self) -> bool:
        """Start a retry if the budget allows; the caller returns it with :meth:`give_back` when the retry ends."""
        if self.retrying >= self.limit:
            return False
        self.retrying += 1
        return True

    def give_back(self) -> None:
        """Return an allowed retry to the budget when it ends."""
        self.retrying -= 1
        assert self.retrying >= 0
