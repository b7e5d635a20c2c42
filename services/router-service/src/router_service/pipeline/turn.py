"""One request's wait in the queue of a pool: for a free backend, or for the start of the pool's first one.

Must not choose a backend. Writes nothing to the client except comments in an event stream, if they are configured.
"""

import asyncio
from time import perf_counter

from router_service.pipeline import ends
from router_service.pipeline.ends import ClientLeft, Refusal, Refused
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.job import Job
from router_service.pipeline.line import Waiter
from router_service.pipeline.relay import Relay
from router_service.pipeline.start import Hold, Start
from router_service.resilience.fair_queue import QueueFull, Ticket
from router_service.routing.decision import Decision
from router_service.routing.snapshot import Attempt
from router_service.routing.vocabulary import Unroutable

COMMENT = b": waiting for an engine to start\n\n"


class Turn:
    """The wait of one request, in the queue of one pool at a time."""

    __slots__ = (
        "_comments",
        "_failed",
        "_fleet",
        "_held_seconds",
        "_hold",
        "_job",
        "_pool",
        "_since",
        "_stopped",
        "_ticket",
    )

    def __init__(self, fleet: Fleet, job: Job) -> None:
        self._fleet = fleet
        self._job = job
        self._pool = ""
        self._ticket: Ticket[Waiter] | None = None
        self._since = perf_counter()
        self._hold: Hold | None = None
        self._comments: _Comments | None = None
        self._stopped = False
        self._held_seconds = 0.0
        self._failed = ""

    async def wait(self, decision: Decision, relay: Relay, attempt: Attempt) -> None:
        """Wait in the queue of the decision's pool until a backend may be free.

        Raises:
            Refused: the queue is full, this request gave way, the wait timed out, or the router stops.
            ClientLeft: the client disconnected while the request waited.
        """
        fleet, job = self._fleet, self._job
        self._leave()
        now = perf_counter()
        self._pool = decision.pool
        hold = fleet.lines[self._pool].start.hold if decision.unroutable is Unroutable.NONE_READY else None
        self._hold = hold or self._hold
        seconds, size = job.settings.queue_seconds, None
        if self._hold is not None:
            seconds = max(seconds, self._hold.seconds) if hold is None else hold.seconds
            size = max(fleet.bounds.queue_size, self._hold.slots) if hold is None else hold.slots
        left = min(self._since + seconds, job.deadline) - now
        if left <= 0:
            raise _no_turn(decision, attempt, self._too_late())
        try:
            ticket, position = fleet.wait(self._pool, job.client_id, now + left, decision.class_name, size)
        except QueueFull:
            raise _no_turn(decision, attempt, self._full(hold)) from None
        self._ticket = ticket
        if job.queue_position is None:
            job.queue_position = position
        if hold is not None:
            self._begin_hold(hold, decision, relay, now)
        started = self._started()
        relay.listen(_Waiting(ticket.waiter))
        try:
            async with asyncio.timeout(left):
                await ticket.waiter
        except TimeoutError:
            if hold is None and self._start().hold is not None and not self._has_usable():
                return  # The last backend was lost meanwhile: the next decision finds none ready.
            raise _no_turn(decision, attempt, self._too_late()) from None
        except asyncio.CancelledError:
            if self._stopped:
                raise _no_turn(decision, attempt, ends.SHUTTING_DOWN) from None
            if not relay.gone:
                raise
            self._failed = "client_left"
            raise ClientLeft from None
        finally:
            relay.listen(None)
            if hold is not None:
                self._end_hold(now)
            for name, count in self._started().items():
                if count > started.get(name, 0):
                    job.went_ahead[name] = job.went_ahead.get(name, 0) + count - started.get(name, 0)
        if ticket.gave_way:
            raise _no_turn(decision, attempt, self._full(hold))

    def stop(self) -> None:
        """End the wait, because the router stops."""
        if self._ticket is not None and not self._ticket.waiter.done():
            self._stopped = True
            self._ticket.waiter.cancel()

    def end(self) -> None:
        """Leave the queue and count the wait."""
        self._job.queued_seconds += perf_counter() - self._since - self._held_seconds
        self._leave()
        if self._hold is not None:
            decision = self._job.decision
            started = decision is not None and decision.chosen is not None
            self._start().count(self._failed or ("started" if started else "stopped"))

    def _start(self) -> Start:
        """Return the start of the pool's first engine; a pool that was removed meanwhile has a new, unused one."""
        line = self._fleet.lines.get(self._pool)
        return Start() if line is None else line.start

    def _has_usable(self) -> bool:
        return self._pool not in self._fleet.pools or self._fleet.usable(self._pool) > 0

    def _started(self) -> dict[str, int]:
        """Return how many requests of each class were sent to the pool, empty without classes."""
        line = self._fleet.lines.get(self._pool)
        return {} if line is None or line.classes is None else dict(line.classes.started)

    def _begin_hold(self, hold: Hold, decision: Decision, relay: Relay, now: float) -> None:
        job = self._job
        job.holding = True
        self._start().awaited(now)
        features = job.features
        if hold.comment_seconds > 0 and features is not None and features.stream:
            self._comments = _Comments(job, relay, hold.comment_seconds)

    def _end_hold(self, began: float) -> None:
        """Add the time until a backend was ready; the rest of the wait is in the queue."""
        self._job.holding = False
        if self._comments is not None:
            self._comments.stop()
            self._comments = None
        ready_at = self._start().ready_at
        held = (ready_at if ready_at >= began else perf_counter()) - began
        self._held_seconds += held
        self._job.held_seconds += held

    def _leave(self) -> None:
        if self._ticket is None:
            return
        self._fleet.leave(self._pool, self._ticket)
        self._ticket = None
        line = self._fleet.lines.get(self._pool)
        if line is not None and not line.queue:
            line.start.awaited_since = None  # Nobody waits, so nothing need start.

    def _too_late(self) -> Refusal:
        self._failed = "expired"
        if self._hold is None or self._has_usable():
            return ends.WAITED_TOO_LONG
        return ends.not_started(self._hold.seconds, self._start().seconds)

    def _full(self, hold: Hold | None) -> Refusal:
        self._failed = "full"
        if hold is None:
            return ends.OVERLOADED
        return ends.too_many_wait_for_start(hold.slots, self._start().seconds)


def _no_turn(decision: Decision, attempt: Attempt, refusal: Refusal) -> Refused:
    """Return the refusal of a request whose wait failed. A resumed stream keeps its decision, without a chosen
    backend.
    """
    if attempt == "resume":
        decision.chosen = None
        decision.unroutable = Unroutable.ALL_AT_LIMIT
    return Refused(refusal)


class _Waiting:
    """Ends the wait of a queued request when its client disconnects."""

    __slots__ = ("_waiter",)

    def __init__(self, waiter: asyncio.Future[None]) -> None:
        self._waiter = waiter

    def client_slow(self) -> None:
        pass

    def client_ready(self) -> None:
        pass

    def client_gone(self) -> None:
        self._waiter.cancel()


class _Comments:
    """Writes a comment into a waiting event stream every ``seconds``. The first one opens the response."""

    def __init__(self, job: Job, relay: Relay, seconds: float) -> None:
        self._job = job
        self._relay = relay
        self._seconds = seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._write)

    def stop(self) -> None:
        self._timer.cancel()

    def _write(self) -> None:
        job, relay = self._job, self._relay
        if not job.opened:
            job.opened = True
            event_stream = [(b"content-type", b"text/event-stream; charset=utf-8")]
            relay.start(200, job.response_headers(200, event_stream, None))
        relay.write(COMMENT)
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._write)
