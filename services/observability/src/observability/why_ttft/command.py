"""The command `why-ttft`: compares two windows in Prometheus and prints why the time to first token changed."""

import argparse
import json
import os
import re
import sys
import time

from observability.moments import moment
from observability.why_ttft.answer import Windows, as_document, as_text, read_answer
from observability.why_ttft.windows import CannotSay
from platform_contracts.prometheus import Prometheus

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to ``parser``."""
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
    """Print the result and return the exit code: 0 answered, 2 cannot be answered.

    If the baseline has no first token (the platform has just started), it prints the composition of the window's
    mean instead of the change. If the window has no first token but changes, it prints the changes.
    """
    try:
        with Prometheus(options.prometheus) as prometheus:
            answer = read_answer(prometheus, _windows(options), options.pool)
    except CannotSay as problem:
        print(f"why-ttft: {problem}", file=sys.stderr)
        return 2
    if answer.empty and not answer.changes:
        print("why-ttft: the window has no first token; try a longer one: --window 1h", file=sys.stderr)
        return 2
    print(json.dumps(as_document(answer), indent=2) if options.json else as_text(answer))
    return 0


def _windows(options: argparse.Namespace) -> Windows:
    end = options.until if options.until is not None else time.time() - options.ago
    start = end - options.window
    baseline_end = start - (options.baseline_ago or 0.0)
    return Windows(start, end, baseline_end - options.baseline, baseline_end)


def _span(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f'"{text}" is not a duration such as 90s, 5m or 2h')
    return float(match[1]) * _UNITS[match[2]]
