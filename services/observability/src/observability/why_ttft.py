"""The command `why-ttft`: reads two windows from Prometheus and says what changed between them."""

import argparse
import json
import os
import re
import sys
import time

import httpx

from observability.contributions import (
    LEVELS,
    Window,
    as_json,
    as_table,
    composition,
    composition_text,
    contributions,
    sentence,
)

SECONDS_METRIC = "router_ttft_component_seconds_sum_by"
COUNT_METRIC = "router_first_tokens_total"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class CannotSay(Exception):
    """There is no answer; the message says why and what would help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    port = os.environ.get("PROMETHEUS_PORT", "9090")
    parser.add_argument("--prometheus", default=f"http://127.0.0.1:{port}", help="URL of Prometheus")
    parser.add_argument("--window", type=_span, default=300.0, help="length of the window in question (5m)")
    parser.add_argument("--ago", type=_span, default=0.0, help="how long ago that window ended (0s)")
    parser.add_argument("--baseline", type=_span, default=1800.0, help="length of the window before it (30m)")
    parser.add_argument("--pool", default=".+", help="only this pool (a regular expression)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Answer. Exit 0: answered, 2: cannot be answered.

    Without first tokens in the baseline (a platform that has just started) it says what the window's time
    is made of instead of what changed.
    """
    end = time.time() - options.ago
    start = end - options.window
    try:
        with httpx.Client(base_url=options.prometheus, timeout=10.0, trust_env=False) as http:
            answers = {}
            alone = {}
            for what, slow in (
                ("mean time to first token", ".*"),
                ("mean of the slow requests", "true"),
            ):
                before = read_window(http, start - options.baseline, start, options.pool, slow)
                after = read_window(http, start, end, options.pool, slow)
                if before.requests and after.requests:
                    answers[what] = (before, after, contributions(before, after))
                elif after.requests:
                    alone[what] = after
    except CannotSay as problem:
        print(f"why-ttft: {problem}", file=sys.stderr)
        return 2
    if not answers and not alone:
        print("why-ttft: the window has no first token; try a longer one: --window 1h", file=sys.stderr)
        return 2
    if options.json:
        told = {what: as_json(*answer) for what, answer in answers.items()}
        made_of = {
            what: {
                "mean_seconds": window.mean_seconds,
                "first_tokens": window.requests,
                "components": dict(composition(window)),
            }
            for what, window in alone.items()
        }
        print(json.dumps({**told, **made_of}, indent=2))
        return 0
    for what, window in alone.items():
        print(composition_text(what, window))
        print()
    for what, (before, after, found) in answers.items():
        print(sentence(what, before, after, found))
        print(as_table(found))
        print()
    return 0


def read_window(http: httpx.Client, start: float, end: float, pool: str, slow: str) -> Window:
    """Return what happened between two epoch times, exactly: counters at the end minus at the start.

    A series that is not there at the start began at 0; one that fell was reset and counts from 0 again.

    Raises:
        CannotSay: Prometheus does not answer, or refuses the query.
    """
    window = Window()
    selector = f'{{pool=~"{pool}",slow=~"{slow}"}}'
    for labels, value in _difference(http, COUNT_METRIC + selector, start, end):
        cell = tuple(labels.get(level, "") for level in LEVELS)
        window.counts[cell] = window.counts.get(cell, 0.0) + value
    for labels, value in _difference(http, SECONDS_METRIC + selector, start, end):
        cell = tuple(labels.get(level, "") for level in LEVELS)
        parts = window.seconds.setdefault(cell, {})
        component = labels.get("component", "")
        parts[component] = parts.get(component, 0.0) + value
    return window


def _difference(
    http: httpx.Client, query: str, start: float, end: float
) -> list[tuple[dict[str, str], float]]:
    first = {tuple(sorted(labels.items())): value for labels, value in _instant(http, query, start)}
    found = []
    for labels, value in _instant(http, query, end):
        known = first.get(tuple(sorted(labels.items())), 0.0)
        grown = value - known if value >= known else value
        if grown or "component" in labels:
            found.append((labels, grown))
    return found


def _instant(http: httpx.Client, query: str, at: float) -> list[tuple[dict[str, str], float]]:
    try:
        response = http.get("/api/v1/query", params={"query": query, "time": at})
    except httpx.HTTPError as error:
        raise CannotSay(
            f"{http.base_url} does not answer ({error}); --prometheus URL names another"
        ) from error
    if response.status_code != 200:
        raise CannotSay(f"Prometheus refused the query: {response.text[:300]}")
    return [(r["metric"], float(r["value"][1])) for r in response.json()["data"]["result"]]


def _span(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f'"{text}" is not a duration such as 90s, 5m or 2h')
    return float(match[1]) * _UNITS[match[2]]
