"""The layer with the largest excess of one request over its pool's usual time to first token."""

from router_service.accounting.ledger import Ledger
from router_service.routing.vocabulary import Verdict

_OWNER = {
    "edge": Verdict.ROUTING,
    "router": Verdict.ROUTING,
    "connect": Verdict.ROUTING,
    "network": Verdict.ROUTING,
    "earlier_attempts": Verdict.EXECUTION,
    "waiting_for_start": Verdict.CAPACITY,
    "relay": Verdict.ROUTING,
    "router_queue": Verdict.CAPACITY,
    "engine_queue": Verdict.CAPACITY,
    "prefill": Verdict.EXECUTION,
    "first_byte_wait": Verdict.EXECUTION,
    "unexplained": Verdict.NONE,
}

_NEVER_USUAL = frozenset({"earlier_attempts", "waiting_for_start"})
"""Parts of few requests only, after a failure or a start: their whole value is excess."""

_WEIGHT = 0.05
_WARM_UP = 20
_LEAST_EXCESS_MS = 10.0


class Baselines:
    """A slow-moving mean per pool and part. No layer is named below an excess of 10 ms or before 20 requests."""

    __slots__ = ("_means", "_seen")

    def __init__(self) -> None:
        self._means: dict[tuple[str, str], float] = {}
        self._seen: dict[str, int] = {}

    def verdict(self, pool: str, ledger: Ledger) -> Verdict:
        """Judge one request, then update the baseline with it."""
        means = self._means
        seen = self._seen.get(pool, 0)
        worst, excess = Verdict.NONE, _LEAST_EXCESS_MS
        for part, value in ledger.parts.items():
            if value is None:
                continue
            if part in _NEVER_USUAL:
                if value > excess:
                    worst, excess = _OWNER[part], value
                continue
            key = (pool, part)
            mean = means.get(key)
            if mean is None:
                means[key] = value
                continue
            if value - mean > excess:
                worst, excess = _OWNER[part], value - mean
            means[key] = mean + _WEIGHT * (value - mean)
        self._seen[pool] = seen + 1
        return worst if seen >= _WARM_UP else Verdict.NONE
