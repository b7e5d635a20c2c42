"""Chooses the backend of a request's next attempt and waits in the queue while all backends are busy.

Must not write to the client.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter

from router_service.pipeline import ends
from router_service.pipeline.ends import ClientLeft, Refusal, Refused
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.job import Job
from router_service.pipeline.line import Waiter
from router_service.pipeline.relay import Relay
from router_service.pipeline.sessions import SessionPins, decide_with_pin
from router_service.resilience.fair_queue import QueueFull, Ticket
from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.snapshot import Attempt, Snapshot
from router_service.routing.vocabulary import AffinityState, Unroutable


class Placement:
    """Decides by the live state and counts the attempt at the chosen backend in."""

    def __init__(
        self, fleet: Fleet, pins: SessionPins | None, observe_decide: Callable[[float], None]
    ) -> None:
        self._fleet = fleet
        self._pins = pins
        self._observe_decide = observe_decide

    async def decide(self, job: Job, relay: Relay, tried: tuple[str, ...], attempt: Attempt) -> Decision:
        """Decide, waiting in the pool's queue while all its backends are busy; count the attempt at the chosen
        backend in.

        Raises:
            Refused: the queue is full, or no backend became free in time.
            ClientLeft: the client disconnected while the request waited.
        """
        fleet = self._fleet
        pins = self._pins
        settings = job.settings
        features = job.features
        assert features is not None
        turn: _Turn | None = None
        try:
            while True:
                began = perf_counter()
                fleet.refresh(began)
                snapshot = Snapshot(fleet.pools, "", tried, attempt)
                if job.home is not None:
                    snapshot.home, snapshot.pin = job.home.pool, job.home.backend
                    decision = decide(features, snapshot, settings.policy, began)
                elif features.session and pins is not None and settings.policy.affinity:
                    decision, key = await decide_with_pin(features, snapshot, settings.policy, began, pins)
                    if key and decision.chosen is not None:
                        moved = decision.affinity is AffinityState.BROKEN
                        pins.placed(key, decision.chosen.name, moved=moved)
                else:
                    decision = decide(features, snapshot, settings.policy, began)
                took = perf_counter() - began
                job.decide_seconds += took
                self._observe_decide(took)
                line = fleet.lines.get(decision.pool)
                waits = decision.unroutable is Unroutable.ALL_AT_LIMIT
                if turn is None and line is not None and decision.chosen is not None:
                    full = fleet.must_wait(decision.pool, job.client_id, decision.class_name, began)
                    waits = full or line.busy
                if not waits or line is None:
                    job.decided(decision)
                    chosen = decision.chosen
                    if chosen is not None:
                        if not job.attempts_began:
                            job.attempts_began = perf_counter()
                        fleet.begin(chosen, job.client_id, decision.class_name)
                        if decision.affinity is not AffinityState.KEPT:  # a pinned request takes no turn
                            fleet.pools[chosen.pool].round_robin = decision.place + 1
                    return decision
                # All are busy, earlier requests are waiting, or the client has its share: join the queue.
                if turn is None:
                    job.decided(decision)
                    turn = _Turn(fleet, job)
                await turn.wait(decision, relay, attempt)
        finally:
            if turn is not None:
                turn.end()


class _Turn:
    """One request's wait for a free backend, in the queue of one pool at a time."""

    __slots__ = ("_fleet", "_job", "_pool", "_since", "_ticket")

    def __init__(self, fleet: Fleet, job: Job) -> None:
        self._fleet = fleet
        self._job = job
        self._pool = ""
        self._ticket: Ticket[Waiter] | None = None
        self._since = perf_counter()

    async def wait(self, decision: Decision, relay: Relay, attempt: Attempt) -> None:
        """Wait in the queue of the decision's pool until a backend may be free.

        Raises:
            Refused: the queue is full, this request gave way, or the wait timed out.
            ClientLeft: the client disconnected while the request waited.
        """
        fleet, job = self._fleet, self._job
        self._leave()
        now = perf_counter()
        left = min(self._since + job.settings.queue_seconds, job.deadline) - now
        if left <= 0:
            raise _no_turn(decision, attempt, ends.WAITED_TOO_LONG)
        self._pool = decision.pool
        try:
            ticket, position = fleet.wait(self._pool, job.client_id, now + left, decision.class_name)
        except QueueFull:
            raise _no_turn(decision, attempt, ends.OVERLOADED) from None
        self._ticket = ticket
        if job.queue_position is None:
            job.queue_position = position
        started = self._started()
        relay.listen(_Waiting(ticket.waiter))
        try:
            async with asyncio.timeout(left):
                await ticket.waiter
        except TimeoutError:
            raise _no_turn(decision, attempt, ends.WAITED_TOO_LONG) from None
        except asyncio.CancelledError:
            if not relay.gone:
                raise
            raise ClientLeft from None
        finally:
            relay.listen(None)
            for name, count in self._started().items():
                if count > started.get(name, 0):
                    job.went_ahead[name] = job.went_ahead.get(name, 0) + count - started.get(name, 0)
        if ticket.gave_way:
            raise _no_turn(decision, attempt, ends.OVERLOADED)

    def _started(self) -> dict[str, int]:
        """Return how many requests of each class were sent to the pool, empty without classes."""
        line = self._fleet.lines.get(self._pool)
        return {} if line is None or line.classes is None else dict(line.classes.started)

    def end(self) -> None:
        """Leave the queue, and add the time in it to the request's queue time."""
        self._job.queued_seconds += perf_counter() - self._since
        self._leave()

    def _leave(self) -> None:
        if self._ticket is not None:
            self._fleet.leave(self._pool, self._ticket)
            self._ticket = None


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
