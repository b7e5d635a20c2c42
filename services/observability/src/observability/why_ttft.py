"""The command `why-ttft`: reads two windows from Prometheus and says what changed between them."""

import argparse
import json
import os
import re
import sys
import time
from datetime import UTC, datetime

import httpx

from observability.causes import Cause, causes
from observability.contributions import Window, composition, composition_text, contributions, parts_by_backend
from observability.telling import as_json, sentence, table
from observability.windows import CannotSay, read_circumstances, read_noise, read_window

POPULATIONS = (("mean time to first token", ".*"), ("mean of the slow requests", "true"))
"""What is decomposed, and the value of the label `slow` that selects it. Means, never quantiles: those do not add up."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    port = os.environ.get("PROMETHEUS_PORT", "9090")
    parser.add_argument("--prometheus", default=f"http://127.0.0.1:{port}", help="URL of Prometheus")
    parser.add_argument("--window", type=_span, default=300.0, help="length of the window in question (5m)")
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument("--ago", type=_span, default=0.0, help="how long ago that window ended (0s)")
    ending.add_argument(
        "--until", type=moment, help="when that window ended: 2026-01-31T12:00:00Z or seconds since 1970"
    )
    parser.add_argument("--baseline", type=_span, default=1800.0, help="length of the window before it (30m)")
    parser.add_argument(
        "--baseline-ago",
        type=_span,
        default=None,
        help="how long before the window the baseline ended (0s; 24h compares with yesterday)",
    )
    parser.add_argument("--pool", default=".+", help="only this pool (a regular expression)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Answer. Exit 0: answered, 2: cannot be answered.

    Without first tokens in the baseline (a platform that has just started) it says what the window's time
    is made of instead of what changed.
    """
    end = options.until if options.until is not None else time.time() - options.ago
    start = end - options.window
    baseline_end = start - (options.baseline_ago or 0.0)
    baseline_start = baseline_end - options.baseline
    answers: dict[str, tuple[Window, Window, list[Cause], float | None]] = {}
    alone: dict[str, Window] = {}
    try:
        with httpx.Client(base_url=options.prometheus, timeout=10.0, trust_env=False) as http:
            around = (
                read_circumstances(http, baseline_start, baseline_end),
                read_circumstances(http, start, end),
            )
            for what, slow in POPULATIONS:
                before = read_window(http, baseline_start, baseline_end, options.pool, slow)
                after = read_window(http, start, end, options.pool, slow)
                if before.requests and after.requests:
                    parts = parts_by_backend(before, after)
                    found = causes(parts, (before, after), around)
                    noise = read_noise(http, baseline_start, baseline_end, options.pool, slow, options.window)
                    answers[what] = (before, after, found, noise)
                elif after.requests:
                    alone[what] = after
    except CannotSay as problem:
        print(f"why-ttft: {problem}", file=sys.stderr)
        return 2
    if not answers and not alone:
        print("why-ttft: the window has no first token; try a longer one: --window 1h", file=sys.stderr)
        return 2
    if options.json:
        told = {
            what: as_json(before, after, found, contributions(before, after), noise)
            for what, (before, after, found, noise) in answers.items()
        }
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
    for what, _ in POPULATIONS:
        if what in answers:
            before, after, found, noise = answers[what]
            print(sentence(what, before, after, found, noise))
            print(table(found))
            print()
        elif what in alone:
            print(composition_text(what, alone[what]))
            print()
    return 0


def _span(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f'"{text}" is not a duration such as 90s, 5m or 2h')
    return float(match[1]) * _UNITS[match[2]]


def moment(text: str) -> float:
    """An argument that is a time, in epoch seconds; without an offset it is UTC."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'"{text}" is not a time such as 2026-01-31T12:00:00Z or seconds since 1970'
        ) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
