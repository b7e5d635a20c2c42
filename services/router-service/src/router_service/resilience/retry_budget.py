"""How many retries the router may have under way, so that retries never multiply an outage."""


class RetryBudget:
    """Allows retries up to a share of the requests in progress, and always a few.

    The share is of requests in progress (as in Envoy's retry budget), so that it neither saves up in
    quiet times nor needs a clock.
    """

    __slots__ = ("_minimum", "_ratio", "active", "retrying")

    def __init__(self, ratio: float = 0.2, minimum: int = 3) -> None:
        self._ratio = ratio
        self._minimum = minimum
        self.active = 0
        self.retrying = 0

    def reconfigure(self, ratio: float, minimum: int) -> None:
        """Use other bounds from now on; retries under way go on."""
        self._ratio = ratio
        self._minimum = minimum

    @property
    def limit(self) -> int:
        """Retries that may be under way now."""
        return max(self._minimum, int(self.active * self._ratio))

    @property
    def remaining(self) -> int:
        """Retries that may begin now."""
        return max(0, self.limit - self.retrying)

    def enter(self) -> None:
        """A request begins."""
        self.active += 1

    def leave(self) -> None:
        """A request that entered has ended, however."""
        self.active -= 1
        assert self.active >= 0

    def try_spend(self) -> bool:
        """Begin a retry if the budget allows; the caller gives it back with :meth:`give_back` at its end."""
        if self.retrying >= self.limit:
            return False
        self.retrying += 1
        return True

    def give_back(self) -> None:
        """A retry that was allowed has ended."""
        self.retrying -= 1
        assert self.retrying >= 0
