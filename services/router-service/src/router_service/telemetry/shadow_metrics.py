"""Metrics of copies of requests (shadow traffic). No series of requests counts a copy."""

from router_service.telemetry import names
from router_service.telemetry.aggregates import Counter, Gauge, Histogram


class ShadowMetrics:
    """Counters and histograms of copies, by pool."""

    def __init__(self) -> None:
        self._requests = Counter(names.SHADOW_REQUESTS)
        self._left_out = Counter(names.SHADOW_LEFT_OUT)
        self._ttft = Histogram(names.SHADOW_TTFT)

    def everything(self) -> list[Counter | Histogram | Gauge]:
        """Return all counters and histograms, for the collector."""
        return [self._requests, self._left_out, self._ttft]

    def finished(self, pool: str, outcome: str, first_token_ms: float | None) -> None:
        """Count one copy."""
        self._requests.add((pool, outcome))
        if first_token_ms is not None:
            self._ttft.of((pool,)).observe(first_token_ms / 1e3)

    def left_out(self, pool: str, because: str) -> None:
        """Count a request that was not copied."""
        self._left_out.add((pool, because))
