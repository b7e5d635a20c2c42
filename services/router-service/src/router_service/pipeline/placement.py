"""Chooses the backend of a request's next attempt and waits in the queue while none can take it.

Must not write to the client.
"""

from collections.abc import Callable
from time import perf_counter

from router_service.pipeline.fleet import Fleet
from router_service.pipeline.job import Job
from router_service.pipeline.relay import Relay
from router_service.pipeline.sessions import SessionPins, decide_with_pin
from router_service.pipeline.turn import Turn
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
        self._turns: set[Turn] = set()

    def stop_waits(self) -> None:
        """Refuse every waiting request, because the router stops."""
        for turn in list(self._turns):
            turn.stop()

    async def decide(self, job: Job, relay: Relay, tried: tuple[str, ...], attempt: Attempt) -> Decision:
        """Decide, waiting in the pool's queue while all its backends are busy, or none is ready and the pool holds
        requests; count the attempt at the chosen backend in.

        Raises:
            Refused: the queue is full, no backend became free or ready in time, or the router stops.
            ClientLeft: the client disconnected while the request waited.
        """
        fleet = self._fleet
        pins = self._pins
        settings = job.settings
        features = job.features
        assert features is not None
        turn: Turn | None = None
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
                elif decision.unroutable is Unroutable.NONE_READY and line is not None and attempt == "first":
                    waits = line.start.hold is not None and not fleet.usable(decision.pool)
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
                # All are busy or none is ready, earlier requests are waiting, or the client has its share.
                if turn is None:
                    job.decided(decision)
                    turn = Turn(fleet, job)
                    self._turns.add(turn)
                await turn.wait(decision, relay, attempt)
        finally:
            if turn is not None:
                self._turns.discard(turn)
                turn.end()
