"""Costs of running resources: one line each, a total of the priced ones, and the ones without a price. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HOURS_PER_MONTH = 730


class BadPrices(Exception):
    """The price file is invalid; the message names the file, the entry and the expected value."""


@dataclass(frozen=True)
class Price:
    """US dollars per hour (None: not looked up), its source and date, and whether AWS is the source."""

    usd: float | None
    source: str
    date: str
    verified: bool


@dataclass(frozen=True)
class Item:
    """``count`` resources whose entry in the price file is ``price``."""

    component: str
    price: str
    count: float


def read_prices(path: Path) -> dict[str, Price]:
    """Read the price file.

    Raises:
        BadPrices: with the entry and the remedy.
    """
    try:
        hourly = yaml.safe_load(path.read_text())["hourly"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise BadPrices(f"{path}: cannot be read as a price file with the key hourly: {error}") from error
    return {str(name): _price(path, str(name), entry) for name, entry in hourly.items()}


def _price(path: Path, name: str, entry: Any) -> Price:
    usd = entry.get("usd") if isinstance(entry, dict) else "?"
    if usd is not None and (not isinstance(usd, int | float) or isinstance(usd, bool) or usd < 0):
        raise BadPrices(f"{path}: hourly.{name}: usd {usd!r} must be a number from 0, or null when unknown")
    if entry.get("verified") and (usd is None or not entry.get("date")):
        raise BadPrices(f"{path}: hourly.{name}: a verified price needs usd and the date it was read")
    return Price(usd, str(entry.get("source", "")), str(entry.get("date") or ""), bool(entry.get("verified")))


def hourly(items: Iterable[Item], prices: dict[str, Price]) -> tuple[float, list[str]]:
    """Return dollars per hour of the priced resources, and the names of the unpriced ones."""
    total = 0.0
    unknown = []
    for item in items:
        price = prices.get(item.price)
        if price is None or price.usd is None:
            unknown.append(item.price)
        else:
            total += price.usd * item.count
    return total, sorted(set(unknown))


def table(items: Sequence[Item], prices: dict[str, Price]) -> str:
    """Return the bill as text: one line per component and kind, and a total that names what it omits."""
    rows = ["component       what                     count    USD/hour  price"]
    for item in items:
        price = prices.get(item.price)
        if price is None or price.usd is None:
            cost, note = "?", "no price: look it up and put it into infrastructure/prices.yaml"
            note += f" ({price.source})" if price is not None else ""
        else:
            cost = f"{price.usd * item.count:.3f}"
            note = (
                f"{price.date}"
                if price.verified
                else f"NOT VERIFIED, {price.source}, {price.date or 'without a date'}"
            )
        rows.append(f"{item.component:<14}  {item.price:<22}  {item.count:>7g}  {cost:>10}  {note}")
    total, unknown = hourly(items, prices)
    least = "at least " if unknown else ""
    rows.append(
        f"{least}{total:.3f} USD an hour, {total * HOURS_PER_MONTH:,.0f} USD in a month of {HOURS_PER_MONTH} hours"
    )
    if unknown:
        rows.append(f"without a price, so not in the sum: {', '.join(unknown)}")
    return "\n".join(rows)
