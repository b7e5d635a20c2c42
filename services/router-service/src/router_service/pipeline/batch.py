"""Gathers what is to be done for finished requests and does it together.

Why: the record, metrics and log line of one request find their code and data in the processor's caches right after
another's; each for itself they cost half as much again (docs/performance.md). It knows nothing of what is done.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 32
"""Done at once at the latest: under a millisecond of the event loop."""

WAIT_SECONDS = 0.005


class Batch(Generic[T]):
    """Hands each item to ``do``, in order, at most :data:`WAIT_SECONDS` later. Who reads what ``do`` writes calls
    :meth:`flush` before. An item that raises is lost alone."""

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
        """Do everything that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items = self._items
        try:
            while items:
                self._do(items.popleft())
        finally:
            if items:  # one of them raised: the others are not lost with it
                self._timer = asyncio.get_running_loop().call_later(WAIT_SECONDS, self.flush)
