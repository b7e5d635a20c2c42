"""`observability client-costs`: a daily report as CSV, or measured unit costs."""

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from observability.client_costs.prices import BadPrices, Prices, load_prices
from observability.client_costs.report import DAY_SECONDS, IDLE, Day, daily, measure
from observability.client_costs.usage import Usage, usages
from observability.moments import moment

COLUMNS = (
    *("day", "pool", "client", "model", "rule", "requests", "requests_without_tokens", "prompt_tokens"),
    *("cached_tokens", "completion_tokens", "gpu_seconds", "share_of_paid", "cost", "currency"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prices", type=Path, help="file with GPUs, prices and unit costs of each pool")
    what.add_argument("--measure", action="store_true", help="print the unit costs of each pool")
    parser.add_argument(
        "--from", dest="since", type=moment, help="count from here, 2026-01-31T00:00:00Z (default: first day)"
    )
    parser.add_argument("--to", type=moment, help="count until here (default: the end of the last day)")
    parser.add_argument("logs", type=Path, nargs="+", help="the router's log files, JSON lines")


def run(options: argparse.Namespace) -> int:
    """Run the command. Exit code 0: success; 1: more was used than paid for, or nothing was measured; 2: bad
    input.
    """
    try:
        prices = None if options.measure else load_prices(options.prices)
        found = list(usages(_lines(options.logs)))
    except (BadPrices, OSError, UnicodeDecodeError) as problem:
        print(f"client-costs: {problem}", file=sys.stderr)
        return 2
    found = [
        usage
        for usage in found
        if (options.since is None or usage.ended >= options.since)
        and (options.to is None or usage.ended < options.to)
    ]
    if not found:
        print(
            "client-costs: these logs contain no request that an engine answered in this time",
            file=sys.stderr,
        )
        return 2
    if prices is None:
        return _print_unit_costs(found)
    return _print_report(found, prices, options.since, options.to)


def _print_unit_costs(found: list[Usage]) -> int:
    failed = 0
    for pool in sorted({usage.pool for usage in found}):
        costs = measure([usage for usage in found if usage.pool == pool])
        if costs is None:
            failed = 1
            print(
                f"{pool}: cannot be measured: needs requests with long prompts and others with long completions",
                file=sys.stderr,
            )
            continue
        print(f"{pool}:")
        print(f"  prefill_seconds_per_token: {costs.prefill_seconds_per_token:.3g}")
        print(f"  decode_seconds_per_token: {costs.decode_seconds_per_token:.3g}")
        print(f"  # explains the busy time of {costs.windows} windows to {costs.error:.1%}")
    return failed


def _print_report(found: list[Usage], prices: Prices, since: float | None, to: float | None) -> int:
    unpriced = sorted({usage.pool for usage in found} - set(prices.pools))
    if unpriced:
        print(f"client-costs: left out because it has no price: pool {', '.join(unpriced)}", file=sys.stderr)
    days = daily(found, prices.pools, _seconds_of_days(found, since, to))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    overspent = 0
    for (day, pool), report in days.items():
        writer.writerows(_rows(day, pool, report, prices))
        if report.idle_gpu_seconds < 0:
            overspent = 1
            print(
                f"client-costs: {day}, pool {pool}: requests took more GPU seconds than the {report.paid_gpu_seconds:.0f} "
                "paid for; measure the unit costs again (--measure) or correct gpus",
                file=sys.stderr,
            )
    return overspent


def _rows(day: str, pool: str, report: Day, prices: Prices) -> Iterator[tuple[object, ...]]:
    price = prices.pools[pool].gpu_hour_price / 3600

    def money(seconds: float) -> tuple[str, str, str, str]:
        share = seconds / report.paid_gpu_seconds
        return f"{seconds:.3f}", f"{share:.6f}", f"{seconds * price:.6f}", prices.currency

    for (client, model, rule), row in sorted(report.rows.items()):
        # If a pool serves any model, a client chose this name, and a spreadsheet would run it as a formula.
        model = f"'{model}" if model[:1] in ("=", "+", "-", "@") else model
        counts = (
            row.requests,
            row.without_tokens,
            row.prompt_tokens,
            row.cached_tokens,
            row.completion_tokens,
        )
        yield (day, pool, client, model, rule, *counts, *money(row.gpu_seconds))
    yield (day, pool, IDLE, "", "", *[""] * 5, *money(report.idle_gpu_seconds))


def _seconds_of_days(found: list[Usage], since: float | None, to: float | None) -> dict[str, float]:
    """Return how many seconds of each UTC day are reported, from the first to the last day with a request."""
    first = datetime.fromtimestamp(since if since is not None else min(u.ended for u in found), UTC)
    last = datetime.fromtimestamp(max(u.ended for u in found), UTC)
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
    seconds: dict[str, float] = {}
    while midnight <= last:
        begin = max(midnight.timestamp(), since if since is not None else 0.0)
        end = min(midnight.timestamp() + DAY_SECONDS, to if to is not None else float("inf"))
        seconds[midnight.date().isoformat()] = end - begin
        midnight += timedelta(days=1)
    return seconds


def _lines(logs: Iterable[Path]) -> Iterator[str]:
    for log in logs:
        with log.open(encoding="utf-8") as lines:
            yield from lines
