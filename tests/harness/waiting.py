"""Waiting for a condition instead of a time: the one way tests meet a machine that is slow today."""

import time
from collections.abc import Callable
from typing import Any


def eventually(
    check: Callable[[], Any],
    what: str | Callable[[], str],
    seconds: float = 30.0,
    pause_seconds: float = 0.05,
) -> Any:
    """Ask until ``check`` is true and return what it gave. ``what`` is said, or asked, when it never was.

    Raises:
        AssertionError: it was not true within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(pause_seconds)
    return found
