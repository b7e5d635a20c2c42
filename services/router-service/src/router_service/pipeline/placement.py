"""From a request to the backend of its next attempt: deciding, and waiting in line where all are busy."""

import asyncio
from collections.abc import Callable
from time import perf_counter

from router_service.pipeline import refusals
from router_service.pipeline.ends import cancelled, refuse
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.job import Job
from router_service.pipeline.refusals import Refusal
from router_service.pipeline.relay import Relay
from router_service.pipeline.sessions import SessionPins, decide_with_pin
from router_service.resilience.fair_queue import QueueFull
from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.snapshot import Attempt, Snapshot
from router_service.routing.vocabulary import AffinityState, Unroutable


class Placement:
    """Decides by the live state and counts the chosen backend's attempt in."""

    def __init__(
        self, fleet: Fleet, pins: SessionPins | None, observe_decide: Callable[[float], None]
    ) -> None:
        self._fleet = fleet
        self._pins = pins
        self._observe_decide = observe_decide

    async def decide(
        self, job: Job, relay: Relay, tried: tuple[str, ...], attempt: Attempt
    ) -> Decision | None:
        """Decide, waiting in the pool's line when all its backends are busy. None: already answered."""
        fleet = self._fleet
        pins = self._pins
        settings = job.settings
        features = job.features
        assert features is not None
        ticket = None
        pool = ""
        waited_from = 0.0
        try:
            while True:
                began = perf_counter()
                fleet.refresh(began)
                snapshot = Snapshot(fleet.pools, "", tried, attempt)
                if features.session and pins is not None:
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
                waits = decision.unroutable is Unroutable.ALL_AT_LIMIT or (
                    ticket is None and decision.chosen is not None and line is not None and line.busy
                )
                if not waits or line is None:
                    job.decided(decision)
                    chosen = decision.chosen
                    if chosen is not None:
                        if not job.attempts_began:
                            job.attempts_began = perf_counter()
                        fleet.begin(chosen)
                        fleet.pools[chosen.pool].round_robin += 1
                    return decision
                # All busy (or somebody was here first): wait for a turn.
                now = perf_counter()
                if not waited_from:
                    waited_from = now
                    job.decided(decision)
                if ticket is not None:
                    fleet.leave(pool, ticket)
                    ticket = None
                left = min(waited_from + settings.queue_seconds, job.deadline) - now
                if left <= 0:
                    return self._no_turn(job, relay, decision, attempt, refusals.WAITED_TOO_LONG)
                pool = decision.pool
                try:
                    ticket = fleet.wait(pool, job.client_id, now + left)
                except QueueFull:
                    return self._no_turn(job, relay, decision, attempt, refusals.OVERLOADED)
                if job.queue_position is None:
                    job.queue_position = line.queue.position(ticket)
                relay.listen(_Waiting(ticket.waiter))
                try:
                    async with asyncio.timeout(left):
                        await ticket.waiter
                except TimeoutError:
                    return self._no_turn(job, relay, decision, attempt, refusals.WAITED_TOO_LONG)
                except asyncio.CancelledError:
                    if not relay.gone:
                        raise
                    cancelled(job)
                    return None
                finally:
                    relay.listen(None)
        finally:
            if waited_from:
                job.queued_seconds += perf_counter() - waited_from
            if ticket is not None:
                fleet.leave(pool, ticket)

    def _no_turn(
        self, job: Job, relay: Relay, decision: Decision, attempt: Attempt, refusal: Refusal
    ) -> Decision | None:
        """The wait was in vain: refuse, unless the client has a part of its answer already."""
        if attempt != "resume":
            refuse(job, relay, refusal)
            return None
        decision.chosen = None
        decision.unroutable = Unroutable.ALL_AT_LIMIT
        return decision


class _Waiting:
    """A client in the line: leaving ends the wait."""

    __slots__ = ("_waiter",)

    def __init__(self, waiter: asyncio.Future[None]) -> None:
        self._waiter = waiter

    def client_slow(self) -> None:
        pass

    def client_ready(self) -> None:
        pass

    def client_gone(self) -> None:
        self._waiter.cancel()
