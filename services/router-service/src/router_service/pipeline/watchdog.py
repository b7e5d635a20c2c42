"""The timers of one attempt: when it was sent, when its first token arrived, and which timeout ends it.

Must not know what the bytes are or where they go.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter

from router_service.pipeline.ends import End
from router_service.routing.rules import Timeouts


class Watchdog:
    """Calls ``on_due`` once when a timeout has passed. Times are `time.perf_counter` seconds.

    The reader of the response sets ``first_token_at`` once and ``progress_at`` for every event. One timer
    compares them with the timeouts when it fires, so an event costs one assignment and moves no timer.
    """

    __slots__ = (
        "_deadline",
        "_on_due",
        "_paused",
        "_streamed",
        "_timeouts",
        "_timer",
        "first_token_at",
        "progress_at",
        "sent_at",
    )

    def __init__(self, timeouts: Timeouts, deadline: float, *, streamed: bool) -> None:
        self._timeouts = timeouts
        self._deadline = deadline
        self._streamed = streamed
        self._paused = False
        self._on_due: Callable[[End, str], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.sent_at = 0.0
        self.progress_at = 0.0
        self.first_token_at = 0.0

    def start(self, on_due: Callable[[End, str], None]) -> None:
        """Start the timeouts when the request is sent."""
        self._on_due = on_due
        self.progress_at = self.sent_at = now = perf_counter()
        self._arm(now)

    def stop(self) -> None:
        """Cancel the timer and forget ``on_due``: it refers to the response, which refers to this watchdog, and a
        request without such circles is freed at once instead of by the garbage collector.
        """
        self._on_due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause(self) -> None:
        """Stop the idle timeout: while the client does not read, the engine's stream is not read either."""
        self._paused = True

    def resume(self) -> None:
        """Restart the idle timeout."""
        self._paused = False
        self.progress_at = perf_counter()

    def _arm(self, now: float) -> None:
        due = self._deadline
        if self._streamed:
            timeouts = self._timeouts
            if self.first_token_at:
                due = min(due, self.progress_at + timeouts.idle_seconds)
            else:
                # Silence after an early first token may end sooner than first_token_seconds: check by then.
                due = min(due, self.sent_at + timeouts.first_token_seconds, now + timeouts.idle_seconds)
        left = due - now
        self._timer = asyncio.get_running_loop().call_later(left if left > 0.001 else 0.001, self._check)

    def _check(self) -> None:
        now = perf_counter()
        on_due = self._on_due
        assert on_due is not None
        if now >= self._deadline:
            on_due(End.TOTAL_TIMEOUT, "the request took longer than total_seconds")
            return
        if self._streamed and self._paused:
            self.progress_at = now
        elif self._streamed and self.first_token_at:
            if now >= self.progress_at + self._timeouts.idle_seconds:
                on_due(End.IDLE_TIMEOUT, "the stream was silent for idle_seconds")
                return
        elif self._streamed and now >= self.sent_at + self._timeouts.first_token_seconds:
            on_due(End.FIRST_TOKEN_TIMEOUT, "no first token within first_token_seconds")
            return
        self._arm(now)
