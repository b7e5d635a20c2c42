"""Arithmetic: converts requests to rows of a daily report, and estimates unit costs from requests. Reads no file."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from observability.client_costs.prices import PoolPrice
from observability.client_costs.usage import Usage

IDLE = "(idle)"
DAY_SECONDS = 86_400.0


@dataclass(slots=True)
class Row:
    """The use of one pool on one day by one client's requests with one rule and model. Seconds are GPU seconds."""

    requests: int = 0
    without_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    gpu_seconds: float = 0.0

    def add(self, usage: Usage, price: PoolPrice) -> None:
        """Add one request."""
        self.requests += 1
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            self.without_tokens += 1
        completion = usage.completion_tokens or 0
        self.prompt_tokens += usage.prompt_tokens or 0
        self.cached_tokens += usage.cached_tokens
        self.completion_tokens += completion
        self.gpu_seconds += price.gpus_per_engine * (
            usage.computed_tokens * price.prefill_seconds_per_token
            + completion * price.decode_seconds_per_token
        )


@dataclass(slots=True)
class Day:
    """One day of one pool: rows by (client, model, rule), and the GPU seconds that were paid for."""

    paid_gpu_seconds: float
    rows: dict[tuple[str, str, str], Row] = field(default_factory=lambda: defaultdict(Row))

    @property
    def idle_gpu_seconds(self) -> float:
        """GPU seconds that were paid for and not used; negative if the unit costs are too high."""
        return self.paid_gpu_seconds - sum(row.gpu_seconds for row in self.rows.values())


def daily(
    found: Iterable[Usage], prices: Mapping[str, PoolPrice], seconds_of_day: Mapping[str, float]
) -> dict[tuple[str, str], Day]:
    """Return the days by (day, pool). ``seconds_of_day`` has the reported seconds of each day.

    Requests of other days and of pools without a price are left out.
    """
    days = {
        (day, pool): Day(price.gpus * seconds)
        for day, seconds in sorted(seconds_of_day.items())
        for pool, price in prices.items()
    }
    for usage in found:
        day = days.get((usage.day, usage.pool))
        if day is not None:
            day.rows[usage.client, usage.model, usage.rule].add(usage, prices[usage.pool])
    return days


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """Engine seconds per computed prompt token and per completion token, and how well they explain the busy time.

    ``error`` is the mean distance between explained and busy seconds of a window, as a share of its busy seconds.
    """

    prefill_seconds_per_token: float
    decode_seconds_per_token: float
    error: float
    windows: int


def measure(found: Sequence[Usage], window_seconds: float = 10.0) -> UnitCosts | None:
    """Fit the unit costs of one pool: busy seconds of each engine and window against the tokens in it.

    An engine is busy while it has a request. A request's tokens are spread evenly over its time at the engine.
    Returns None if there are fewer than two windows with tokens, or if the tokens do not separate the two costs.
    """
    tokens: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    busy: dict[tuple[str, int], float] = defaultdict(float)
    for backend, spans in _by_backend(found).items():
        for began, ended, usage in spans:
            for window, share in _windows(began, ended, window_seconds):
                part = share / max(ended - began, 1e-9)
                tokens[backend, window][0] += usage.computed_tokens * part
                tokens[backend, window][1] += (usage.completion_tokens or 0) * part
        for began, ended in _union([(began, ended) for began, ended, _ in spans]):
            for window, share in _windows(began, ended, window_seconds):
                busy[backend, window] += share
    keys = sorted(tokens)
    if len(keys) < 2:
        return None
    a = np.array([tokens[key] for key in keys])
    b = np.array([busy[key] for key in keys])
    costs, _, rank, _ = np.linalg.lstsq(a, b, rcond=None)
    if rank < 2 or min(costs) <= 0:
        return None
    error = float(np.abs(a @ costs - b).sum() / b.sum())
    return UnitCosts(float(costs[0]), float(costs[1]), error, len(keys))


def _by_backend(found: Sequence[Usage]) -> dict[str, list[tuple[float, float, Usage]]]:
    spans: dict[str, list[tuple[float, float, Usage]]] = defaultdict(list)
    for usage in found:
        if usage.prompt_tokens is not None and usage.completion_tokens is not None:
            spans[usage.backend].append((usage.began, usage.ended, usage))
    return spans


def _windows(began: float, ended: float, length: float) -> Iterable[tuple[int, float]]:
    """Yield each window that a span touches, and its seconds in it."""
    window = int(began // length)
    while began < ended:
        end = min((window + 1) * length, ended)
        yield window, end - began
        began, window = end, window + 1


def _union(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for began, ended in sorted(spans):
        if merged and began <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], ended))
        else:
            merged.append((began, ended))
    return merged
