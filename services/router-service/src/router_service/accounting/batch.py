"""Collects finished requests and processes them together.

The record, metrics and log line of one request find their code and data in the processor's caches right after another
request's. Processed one by one they cost half as much again (docs/performance.md). This module does not know what the
processing is.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 32
"""Largest number of items per batch: processing them takes under a millisecond of the event loop."""

WAIT_SECONDS = 0.005


class Batch(Generic[T]):
    """Passes each item to ``do``, in order, at most :data:`WAIT_SECONDS` later. Call :meth:`flush` before reading
    anything that ``do`` writes. An item that raises does not affect the others.
    """

    __slots__ = ("_do", "_items", "_timer")

    def __init__(self, do: Callable[[T], None]) -> None:
        self._do = do
        self._items: deque[T] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, item: T) -> None:
        self._items.append(item)
        if len(self._items) >= MOST:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAIT_SECONDS, self.flush)

    def flush(self) -> None:
        """Process all waiting items."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items = self._items
        try:
            while items:
                self._do(items.popleft())
        finally:
            if items:  # An item raised: process the items after it.
                self._timer = asyncio.get_running_loop().call_later(WAIT_SECONDS, self.flush)
