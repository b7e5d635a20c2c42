"""Waiting for a condition instead of a fixed time, so that tests also pass on a slow machine."""

import time
from collections.abc import Callable
from typing import Any


def eventually(
    check: Callable[[], Any],
    what: str | Callable[[], str],
    seconds: float = 30.0,
    pause_seconds: float = 0.05,
) -> Any:
    """Call ``check`` until it returns a true value, and return that. ``what`` describes the condition in the
    error: a text, or a function that returns one.

    Raises:
        AssertionError: it was not true within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(pause_seconds)
    return found
