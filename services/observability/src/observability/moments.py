"""Points in time on the command line."""

import argparse
from datetime import UTC, datetime


def moment(text: str) -> float:
    """Parse a command-line argument as a time and return epoch seconds; a time without an offset is UTC."""
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
