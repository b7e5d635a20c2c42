"""Reads the two windows of a comparison from Prometheus: the ledger's sums, and the circumstances."""

import itertools
import math
import statistics
from collections.abc import Callable, Iterator

import httpx

from observability.why_ttft.circumstances import Circumstances, EngineReadings
from observability.why_ttft.contributions import LEVELS, Window
from observability.why_ttft.counter_growth import growth
from observability.why_ttft.spells import Spell, spell
from platform_contracts.prometheus import NoAnswer, Prometheus, Refused, Series

SECONDS_METRIC = "router_ttft_component_seconds_sum_by"
COUNT_METRIC = "router_first_tokens_total"
THINKING_METRIC = "router_thinking_seconds_total"

BACKEND_SECONDS_METRIC = "router_backend_ttft_seconds_total"
BACKEND_COUNT_METRIC = "router_backend_first_tokens_total"

PIECES = 6
LEAST_PIECES = 4
SIGMAS = 4.0
"""With five degrees of freedom, one unchanged window in a hundred lies beyond four standard errors."""


class CannotSay(Exception):
    """The question cannot be answered. The message contains the reason and a remedy."""


def read_window(prometheus: Prometheus, start: float, end: float, pool: str, slow: str) -> Window:
    """Return the exact ledger sums between two epoch times (see :mod:`observability.why_ttft.counter_growth`).

    Raises:
        CannotSay: Prometheus does not respond, or refuses the query.
    """
    window = Window()
    selector = f'{{pool=~"{pool}",slow=~"{slow}"}}'
    for labels, value in _difference(prometheus, COUNT_METRIC + selector, start, end):
        if value:
            cell = tuple(labels.get(level, "") for level in LEVELS)
            window.counts[cell] = window.counts.get(cell, 0.0) + value
    for labels, value in _difference(prometheus, SECONDS_METRIC + selector, start, end):
        cell = tuple(labels.get(level, "") for level in LEVELS)
        parts = window.seconds.setdefault(cell, {})
        component = labels.get("component", "")
        parts[component] = parts.get(component, 0.0) + value
    of_pool = f'{{pool=~"{pool}"}}'
    counts = _by_backend(_difference(prometheus, BACKEND_COUNT_METRIC + of_pool, start, end))
    seconds = _by_backend(_difference(prometheus, BACKEND_SECONDS_METRIC + of_pool, start, end))
    window.backends = {name: (count, seconds.get(name, 0.0)) for name, count in counts.items() if count}
    return window


def with_thinking(prometheus: Prometheus, window: Window, start: float, end: float, pool: str) -> Window:
    """Return ``window`` with the time from the first token to the answer's first token as the part `thinking`.

    Raises:
        CannotSay: Prometheus does not respond, or refuses a query.
    """
    longer = window.without(frozenset())
    for labels, value in _difference(prometheus, f'{THINKING_METRIC}{{pool=~"{pool}"}}', start, end):
        cell = tuple(labels.get(level, "") for level in LEVELS)
        if value and longer.counts.get(cell):
            parts = longer.seconds.setdefault(cell, {})
            parts["thinking"] = parts.get("thinking", 0.0) + value
    return longer


def _by_backend(found: list[tuple[dict[str, str], float]]) -> dict[str, float]:
    return _sums((labels.get("backend", ""), value) for labels, value in found)


def read_noise(
    prometheus: Prometheus,
    start: float,
    end: float,
    selector: str,
    window_seconds: float,
    *,
    thinking: bool = False,
) -> float | None:
    """Return how many seconds the mean of a window may differ from the baseline by chance.

    The baseline from ``start`` to ``end`` is cut into :data:`PIECES`. The result is :data:`SIGMAS` standard errors
    of the difference, estimated from the variation of the pieces' means. It is None if too few pieces have a first
    token.

    Raises:
        CannotSay: Prometheus does not respond, or refuses a query.
    """
    piece = (end - start) / PIECES
    totals = []
    measured = f"sum({SECONDS_METRIC}{selector})"
    if thinking:
        measured += f" + (sum({THINKING_METRIC}{selector}) or vector(0))"
    for number in range(PIECES + 1):
        at = start + number * piece
        seconds = sum(value for _, value in _instant(prometheus, measured, at))
        count = sum(value for _, value in _instant(prometheus, f"sum({COUNT_METRIC}{selector})", at))
        totals.append((seconds, count))
    means = [
        (seconds - old_seconds) / (count - old_count)
        for (old_seconds, old_count), (seconds, count) in itertools.pairwise(totals)
        if count > old_count and seconds >= old_seconds
    ]
    if len(means) < LEAST_PIECES:
        return None
    spread = statistics.stdev(means)
    return SIGMAS * spread * math.sqrt(1 / len(means) + piece / window_seconds)


def read_circumstances(prometheus: Prometheus, start: float, end: float) -> Circumstances:
    """Return readings of routers and engines for the time between two epoch times.

    Raises:
        CannotSay: Prometheus does not respond, or refuses a query.
    """
    found = Circumstances()
    seconds = max(end - start, 1.0)
    span = f"[{seconds:.0f}s]"

    def grown(query: str, label: str = "backend") -> dict[str, float]:
        return _sums(
            (labels.get(label, ""), value) for labels, value in _difference(prometheus, query, start, end)
        )

    def growth_of(query: str) -> float:
        return sum(value for _, value in _difference(prometheus, query, start, end))

    def reading(backend: str) -> EngineReadings:
        return found.engines.setdefault(backend, EngineReadings())

    def engines(query: str) -> Iterator[tuple[EngineReadings, float]]:
        return ((reading(backend), value) for backend, value in grown(query).items() if backend)

    began = f"min(min_over_time(timestamp(router_config_info)[{seconds:.0f}s:{max(seconds / 60, 1):.0f}s]))"
    covered = max([end - value for _, value in _instant(prometheus, began, end)], default=seconds)
    covered = min(max(covered, 1.0), seconds)  # A baseline may begin before the first scrape.
    late = grown("router_event_loop_lag_seconds_sum", "instance")
    ticks = grown("router_event_loop_lag_seconds_count", "instance")
    found.loop_lag_seconds = max((late.get(i, 0.0) / n for i, n in ticks.items() if n), default=0.0)
    found.affinity_store_down = _store_down(prometheus, span, start, end)

    gaps = grown("vllm:inter_token_latency_seconds_count")
    for backend, total in grown("vllm:inter_token_latency_seconds_sum").items():
        if backend and (count := gaps.get(backend)):
            reading(backend).token_seconds = total / count
    for metric, sign in (("generation_tokens", 1), ("prompt_tokens", 1), ("prefix_cache_hits", -1)):
        for one, value in engines(f"vllm:{metric}_total"):
            one.tokens_per_second += sign * value / covered
    for one, value in engines("vllm:num_preemptions_total"):
        one.preemptions = value
    for one, value in engines("router_backend_failed_attempts_total"):
        one.failed_attempts = value
    answered = grown("router_backend_requests_total")
    for backend, tokens in grown("vllm:prompt_tokens_total").items():
        if backend and (count := answered.get(backend)):
            reading(backend).prompt_tokens_per_request = tokens / count
    _read_tokens(found, growth_of)
    for labels, value in _instant(
        prometheus, f"max by (backend) (max_over_time(vllm:kv_cache_usage_perc{span}))", end
    ):
        reading(labels.get("backend", "")).kv_usage = value
    for series in ask(prometheus, f'backend_state{{state=~"stuck|unreachable|throttled"}}{span}', end):
        if when := spell([series.points], bool, start, end):
            reading(series.labels.get("backend", "")).states[series.labels["state"]] = when
    return found


def _store_down(prometheus: Prometheus, span: str, start: float, end: float) -> Spell | None:
    """Return when a router had no affinity store. Scrapes miss short times, so exported exact times count too."""
    points: dict[str, list[tuple[float, float]]] = {}
    for series in ask(prometheus, f"router_affinity_store_up{span}", end):
        points.setdefault(series.labels.get("instance", ""), []).extend(series.points)
    exact = f'router_change_time_seconds{{kind="affinity_store"}}{span}'
    for series in ask(prometheus, exact, end):
        known = points.get(series.labels.get("instance", ""), [])
        first = min((at for at, _ in known), default=end)
        up = float(series.labels.get("after") == "up")
        known += [(at, up) for at in {value for _, value in series.points} if first <= at <= end]
    return spell(map(sorted, points.values()), lambda value: not value, start, end)


def _read_tokens(found: Circumstances, growth_of: Callable[[str], float]) -> None:
    """Read mean token counts of a request from the routers' counters."""
    if ok := growth_of('router_requests_total{outcome="ok"}'):
        found.reasoning_tokens_per_request = growth_of('router_tokens_total{kind="reasoning"}') / ok
    if expected := growth_of('router_first_tokens_total{affinity=~"kept|prefix_kept"}'):
        found.expected_tokens = growth_of('router_expected_cache_tokens_total{kind="prompt"}') / expected
        found.expected_cached = growth_of('router_expected_cache_tokens_total{kind="cached"}') / expected


def _sums(values: Iterator[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values:
        found[name] = found.get(name, 0.0) + value
    return found


def _difference(
    prometheus: Prometheus, query: str, start: float, end: float
) -> list[tuple[dict[str, str], float]]:
    return growth(lambda text, at: ask(prometheus, text, at), query, start, end)


def _instant(prometheus: Prometheus, query: str, at: float) -> list[tuple[dict[str, str], float]]:
    return [(series.labels, series.points[-1][1]) for series in ask(prometheus, query, at)]


def ask(prometheus: Prometheus, query: str, at: float) -> list[Series]:
    """Evaluate PromQL at an epoch time.

    Raises:
        CannotSay: Prometheus does not respond, or refuses the query.
    """
    try:
        return prometheus.instant(query, at)
    except NoAnswer as error:
        raise CannotSay(
            f"Prometheus at {prometheus.url} does not respond ({error}); set another URL with --prometheus"
        ) from error
    except Refused as error:
        raise CannotSay(f"Prometheus refused the query: {error}") from error


def asked_queries(ask: Callable[[Prometheus], object]) -> list[str]:
    """Return the queries that ``ask`` sends, without a Prometheus."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.params["query"])
        return httpx.Response(200, json={"data": {"result": []}})

    with Prometheus("http://prometheus", transport=httpx.MockTransport(answer)) as prometheus:
        ask(prometheus)
    return list(dict.fromkeys(seen))
