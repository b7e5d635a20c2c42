"""The timers of one attempt: when it was sent, when its first token arrived, and which timeout ends it.

Must not know what the bytes are or where they go.
"""

import asyncio
from collections.abc import Callable
from math import inf
from time import perf_counter

from router_service.pipeline.ends import End
from router_service.routing.rules import Timeouts

_REST_SECONDS = 0.02
"""Minimum time between two checks of all watchdogs; a timeout is detected at most this late."""


class Alarms:
    """One timer for all running watchdogs: a timer for each attempt costs more than the rest of its watchdog.

    The timer is set to the earliest due time of all. When it fires, every watchdog is asked for its due time again.
    Most attempts have ended by then, so it fires about once per shortest timeout. A watchdog that ends leaves ``running``.
    """

    __slots__ = ("_next", "_timer", "running")

    def __init__(self) -> None:
        self.running: set[Watchdog] = set()
        self._next = inf
        self._timer: asyncio.TimerHandle | None = None

    def add(self, watchdog: "Watchdog", due: float) -> None:
        """Check ``watchdog`` at ``due``, in `time.perf_counter` seconds."""
        self.running.add(watchdog)
        if due < self._next:
            self._set(due, perf_counter())

    def _set(self, due: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = due
        self._timer = asyncio.get_running_loop().call_later(max(due - now, 0.001), self._look)

    def _look(self) -> None:
        now = perf_counter()
        self._timer, self._next = None, inf
        due = now  # If a callback fails, the others are checked again soon.
        try:
            due = min([watchdog.check(now) for watchdog in list(self.running)], default=inf)
        finally:
            if due < inf:
                self._set(max(due, now + _REST_SECONDS), now)


class Watchdog:
    """Calls ``on_due`` once when a timeout has passed. Times are `time.perf_counter` seconds.

    The reader of the response sets ``first_token_at`` once and ``progress_at`` for every event. :class:`Alarms`
    compares them with the timeouts when its timer fires, so an event costs one assignment and moves no timer.
    """

    __slots__ = (
        "_alarms",
        "_deadline",
        "_on_due",
        "_paused",
        "_streamed",
        "_timeouts",
        "first_token_at",
        "progress_at",
        "sent_at",
    )

    def __init__(self, alarms: Alarms, timeouts: Timeouts, deadline: float, *, streamed: bool) -> None:
        self._alarms = alarms
        self._timeouts = timeouts
        self._deadline = deadline
        self._streamed = streamed
        self._paused = False
        self._on_due: Callable[[End, str], None] | None = None
        self.sent_at = 0.0
        self.progress_at = 0.0
        self.first_token_at = 0.0

    def start(self, on_due: Callable[[End, str], None]) -> None:
        """Start the timeouts when the request is sent."""
        self._on_due = on_due
        self.progress_at = self.sent_at = now = perf_counter()
        self._alarms.add(self, self._due(now) if self._streamed else self._deadline)

    def stop(self) -> None:
        """End the timeouts and forget ``on_due``: it refers to the response, which refers to this watchdog, and a
        request without such circles is freed at once instead of by the garbage collector.
        """
        self._on_due = None
        self._alarms.running.discard(self)

    def pause(self) -> None:
        """Stop the idle timeout: while the client does not read, the engine's stream is not read either."""
        self._paused = True

    def resume(self) -> None:
        """Restart the idle timeout."""
        self._paused = False
        self.progress_at = perf_counter()

    def check(self, now: float) -> float:
        """End the attempt if a timeout has passed by ``now``; return when to check again, infinity for never."""
        on_due = self._on_due
        if on_due is None:
            return inf
        if now >= self._deadline:
            on_due(End.TOTAL_TIMEOUT, "the request took longer than total_seconds")
            return inf
        if self._streamed and self._paused:
            self.progress_at = now
        elif self._streamed and self.first_token_at:
            if now >= self.progress_at + self._timeouts.idle_seconds:
                on_due(End.IDLE_TIMEOUT, "the stream was silent for idle_seconds")
                return inf
        elif self._streamed and now >= self.sent_at + self._timeouts.first_token_seconds:
            on_due(End.FIRST_TOKEN_TIMEOUT, "no first token within first_token_seconds")
            return inf
        return self._due(now)

    def _due(self, now: float) -> float:
        due = self._deadline
        if self._streamed:
            timeouts = self._timeouts
            if self.first_token_at:
                due = min(due, self.progress_at + timeouts.idle_seconds)
            else:
                # Silence after an early first token may end sooner than first_token_seconds: check by then.
                due = min(due, self.sent_at + timeouts.first_token_seconds, now + timeouts.idle_seconds)
        return due
