"""Reads the two windows of a comparison from Prometheus: the ledger's sums, and the circumstances."""

import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from observability.circumstances import Circumstances, EngineReadings
from observability.contributions import LEVELS, Window
from observability.growth import growth

SECONDS_METRIC = "router_ttft_component_seconds_sum_by"
COUNT_METRIC = "router_first_tokens_total"

NO_FAILURE = "complete|client_gone|diverged"
"""Attempts with these outcomes did not fail."""

PIECES = 6
LEAST_PIECES = 4
SIGMAS = 4.0
"""With five degrees of freedom one quiet window in a hundred lies beyond four standard errors."""


class CannotSay(Exception):
    """There is no answer; the message says why and what would help."""


def read_window(http: httpx.Client, start: float, end: float, pool: str, slow: str) -> Window:
    """Return what happened between two epoch times, exactly (:mod:`observability.growth`).

    Raises:
        CannotSay: Prometheus does not answer, or refuses the query.
    """
    window = Window()
    selector = f'{{pool=~"{pool}",slow=~"{slow}"}}'
    for labels, value in _difference(http, COUNT_METRIC + selector, start, end):
        if value:
            cell = tuple(labels.get(level, "") for level in LEVELS)
            window.counts[cell] = window.counts.get(cell, 0.0) + value
    for labels, value in _difference(http, SECONDS_METRIC + selector, start, end):
        cell = tuple(labels.get(level, "") for level in LEVELS)
        parts = window.seconds.setdefault(cell, {})
        component = labels.get("component", "")
        parts[component] = parts.get(component, 0.0) + value
    return window


def read_noise(
    http: httpx.Client, start: float, end: float, pool: str, slow: str, window_seconds: float
) -> float | None:
    """Return by how many seconds the mean of such a window may differ from the time before by chance.

    The time before is cut into :data:`PIECES`; what their means vary by says what a window's mean does, at
    :data:`SIGMAS` standard errors of the difference. None where too few pieces have a first token.

    Raises:
        CannotSay: Prometheus does not answer, or refuses a query.
    """
    piece = (end - start) / PIECES
    selector = f'{{pool=~"{pool}",slow=~"{slow}"}}'
    totals = []
    for number in range(PIECES + 1):
        at = start + number * piece
        seconds = sum(value for _, value in _instant(http, f"sum({SECONDS_METRIC}{selector})", at))
        count = sum(value for _, value in _instant(http, f"sum({COUNT_METRIC}{selector})", at))
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


def read_circumstances(http: httpx.Client, start: float, end: float) -> Circumstances:
    """Return what routers and engines said about the time between two epoch times.

    Raises:
        CannotSay: Prometheus does not answer, or refuses a query.
    """
    found = Circumstances()
    seconds = max(end - start, 1.0)
    span = f"[{seconds:.0f}s]"

    def grown(query: str, label: str = "backend") -> dict[str, float]:
        return _sums((labels.get(label, ""), value) for labels, value in _difference(http, query, start, end))

    def reading(backend: str) -> EngineReadings:
        return found.engines.setdefault(backend, EngineReadings())

    def engines(query: str) -> Iterator[tuple[EngineReadings, float]]:
        return ((reading(backend), value) for backend, value in grown(query).items() if backend)

    began = f"min(min_over_time(timestamp(router_config_info)[{seconds:.0f}s:{max(seconds / 60, 1):.0f}s]))"
    covered = max([end - value for _, value in _instant(http, began, end)], default=seconds)
    covered = min(max(covered, 1.0), seconds)  # a baseline may begin before there was anything to scrape
    late = grown("router_event_loop_lag_seconds_sum", "instance")
    ticks = grown("router_event_loop_lag_seconds_count", "instance")
    found.loop_lag_seconds = max((late.get(i, 0.0) / n for i, n in ticks.items() if n), default=0.0)
    up = _instant(http, f"min(min_over_time(router_affinity_store_up{span}))", end)
    found.affinity_store_down = any(value == 0 for _, value in up)

    gaps = grown("vllm:inter_token_latency_seconds_count")
    for backend, total in grown("vllm:inter_token_latency_seconds_sum").items():
        if backend and (count := gaps.get(backend)):
            reading(backend).token_seconds = total / count
    for metric, sign in (("generation_tokens", 1), ("prompt_tokens", 1), ("prefix_cache_hits", -1)):
        for one, value in engines(f"vllm:{metric}_total"):
            one.tokens_per_second += sign * value / covered
    for one, value in engines("vllm:num_preemptions_total"):
        one.preemptions = value
    for one, value in engines(f'router_attempts_total{{outcome!~"{NO_FAILURE}"}}'):
        one.failed_attempts = value
    prompts = grown('router_tokens_total{kind="prompt"}')
    answered = grown('router_requests_total{outcome="ok"}')
    for backend, tokens in prompts.items():
        if backend and (count := answered.get(backend)):
            reading(backend).prompt_tokens_per_request = tokens / count
    for labels, value in _instant(
        http, f"max by (backend) (max_over_time(vllm:kv_cache_usage_perc{span}))", end
    ):
        reading(labels.get("backend", "")).kv_usage = value
    states = f'max by (backend, state) (max_over_time(backend_state{{state=~"stuck|unreachable|throttled"}}{span})) == 1'
    for labels, _ in _instant(http, states, end):
        reading(labels["backend"]).states.add(labels["state"])
    return found


def _sums(values: Iterator[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values:
        found[name] = found.get(name, 0.0) + value
    return found


def _difference(
    http: httpx.Client, query: str, start: float, end: float
) -> list[tuple[dict[str, str], float]]:
    return growth(lambda text, at: _ask(http, text, at), query, start, end)


def _instant(http: httpx.Client, query: str, at: float) -> list[tuple[dict[str, str], float]]:
    return [(r["metric"], float(r["value"][1])) for r in _ask(http, query, at)]


def _ask(http: httpx.Client, query: str, at: float) -> list[dict[str, Any]]:
    try:
        response = http.get("/api/v1/query", params={"query": query, "time": at})
    except httpx.HTTPError as error:
        raise CannotSay(
            f"{http.base_url} does not answer ({error}); --prometheus URL names another"
        ) from error
    if response.status_code != 200:
        raise CannotSay(f"Prometheus refused the query: {response.text[:300]}")
    result: list[dict[str, Any]] = response.json()["data"]["result"]
    return result


def asked_queries(ask: Callable[[httpx.Client], object]) -> list[str]:
    """Return the queries that ``ask`` sends, without a Prometheus."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.params["query"])
        return httpx.Response(200, json={"data": {"result": []}})

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://prometheus") as http:
        ask(http)
    return list(dict.fromkeys(seen))
