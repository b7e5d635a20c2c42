"""Every metric of the rate limit service. No label has client names, because their number is unbounded."""

import time
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

WARNING_INTERVAL_SECONDS = 30.0


class Telemetry:
    """The service's metrics in one registry, and the interval of its warnings."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = Counter(
            "rate_limit_decisions_total",
            "Rate limit decisions by outcome (admitted, unlimited, over_requests, over_tokens, over_tokens_per_day, "
            "over_tokens_per_month, over_team_tokens_per_minute, over_team_tokens_per_day, over_team_tokens_per_month, "
            "too_large, store_unavailable, local_admitted, local_refused, not_understood).",
            ["outcome"],
            registry=registry,
        )
        self._reserved = Counter(
            "rate_limit_reserved_tokens_total", "Tokens that were reserved at admission.", registry=registry
        )
        self._used = Counter(
            "rate_limit_used_tokens_total", "Tokens of settled reservations.", registry=registry
        )
        self._settlements = Counter(
            "rate_limit_settlements_total",
            "Settled reservations by outcome (below_estimate, above_estimate, exact, unknown_reservation).",
            ["outcome"],
            registry=registry,
        )
        self._store_up = Gauge(
            "rate_limit_store_up",
            "1 if the last call to the budget store succeeded, else 0.",
            registry=registry,
        )
        self._store_seconds = Histogram(
            "rate_limit_store_seconds",
            "Duration of one call to the budget store.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
            registry=registry,
        )
        self._warned_at = -WARNING_INTERVAL_SECONDS

    def decided(self, outcome: str) -> None:
        """Count one decision."""
        self._decisions.labels(outcome).inc()

    def reserved(self, tokens: int) -> None:
        """Count reserved tokens."""
        self._reserved.inc(tokens)

    def settled(self, reserved: int | None, used: int) -> None:
        """Count one settlement; ``reserved`` is None if there was no reservation to settle."""
        self.store_answered()
        if reserved is None:
            self._settlements.labels("unknown_reservation").inc()
            return
        self._used.inc(used)
        outcome = "exact" if used == reserved else "below_estimate" if used < reserved else "above_estimate"
        self._settlements.labels(outcome).inc()

    def store_answered(self) -> None:
        """Record that the store replied."""
        self._store_up.set(1)

    def store_failed(self) -> None:
        """Record that the store did not reply."""
        self._store_up.set(0)
        self.decided("store_unavailable")

    def store_time(self) -> AbstractContextManager[object]:
        """Measure the block as one call to the store (seconds)."""
        return self._store_seconds.time()

    def may_warn(self) -> bool:
        """Return whether a warning about the store is due: at most one per interval."""
        now = time.monotonic()
        if now - self._warned_at < WARNING_INTERVAL_SECONDS:
            return False
        self._warned_at = now
        return True
