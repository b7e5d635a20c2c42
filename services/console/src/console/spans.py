"""Reads durations and times that people write."""

import re
import time

from console import shown

_SPAN = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class BadSpan(ValueError):
    """The text is neither a duration nor a time; the message names the field and the value."""


def span_seconds(text: str, name: str) -> float:
    """Return the seconds of a duration such as 5m.

    Raises:
        BadSpan: it is not a duration, or longer than a week.
    """
    match = _SPAN.fullmatch(text)
    if match is None or not 1 <= (seconds := float(match[1]) * _UNITS[match[2]]) <= 7 * 86400:
        raise BadSpan(f"{name}: {text[:32]!r} is not a duration such as 90s, 5m or 2h (at most 7d)")
    return seconds


def until_seconds(text: str) -> float:
    """Return the epoch seconds of a time; an empty text is now.

    Raises:
        BadSpan: it is not a time.
    """
    if not text:
        return time.time()
    try:
        return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else shown.seconds_of({"time": text})
    except (ValueError, OverflowError):
        raise BadSpan(f"until: {text[:32]!r} is not a time such as 2026-01-31T12:00:00Z") from None
