"""Requests about a stored response: one attempt at the backend that has it. Must not route or retry."""

from time import perf_counter

from router_service.pipeline import ends
from router_service.pipeline.answer import Answer
from router_service.pipeline.attempt_loop import end_after
from router_service.pipeline.attempts import Attempts
from router_service.pipeline.ends import ClientLeft, End, Refused
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.job import Job
from router_service.pipeline.relay import Relay
from router_service.pipeline.response_homes import ResponseHomes
from router_service.routing.decision import Decision, read
from router_service.routing.features import Features
from router_service.routing.vocabulary import AffinityState, Reason

SOURCE = "path:response_id"
"""The session source of a request about a stored response."""


class StoredResponses:
    """Sends requests about stored responses to the backends that have them."""

    def __init__(self, fleet: Fleet, homes: ResponseHomes | None, attempts: Attempts) -> None:
        self._fleet = fleet
        self._homes = homes
        self._attempts = attempts

    async def run(self, job: Job, relay: Relay) -> Answer:
        """Return the engine's complete answer.

        Raises:
            Refused: no backend is known to have the response, the store does not reply, the backend is gone, or it did not
                answer.
            Rejected, BrokenOff: the backend answered with an error status, or not to the end.
            ClientLeft: the client disconnected.
        """
        stored = job.inbound.stored
        assert stored is not None
        job.set_timeouts(job.settings.policy.timeouts)
        job.features = Features(
            job.inbound.path.path, stream=stored.stream, client_id=job.client_id, request_id=job.request_id
        )
        homes = self._homes
        home = await homes.find(job.client_id, stored.response_id) if homes is not None else None
        if homes is None or home is None:
            if homes is not None and not homes.up:
                raise Refused(ends.HOMES_UNKNOWN)
            raise Refused(ends.response_not_found(stored.response_id))
        backend = self._fleet.find(home.pool, home.backend)
        if backend is None:
            raise Refused(ends.RESPONSE_LOST)
        pool = job.settings.policy.pools.get(home.pool)
        job.features.session, job.features.session_source = home.key, SOURCE
        decision = Decision(
            first_pool=home.pool,
            pool=home.pool,
            policy=pool.policy if pool is not None else "",
            reason=Reason.SESSION_AFFINITY,
            chosen=backend,
            affinity=AffinityState.KEPT,
            pin=home.backend,
            home=home.pool,
            eligible=[read(backend)],
            scores=[0.0],
        )
        classes = job.settings.policy.classes
        if classes is not None:
            decision.class_name = classes.name_for("", job.client_id, "")
        job.decided(decision)
        job.attempts_began = perf_counter()
        self._fleet.begin(backend, job.client_id, decision.class_name)
        answer = await self._attempts.run(job, relay, decision, {})
        if answer.end is End.CLIENT_GONE:
            raise ClientLeft
        if answer.end is not End.COMPLETE:
            raise end_after(answer, answer if answer.started else None, relay)
        if home.created_by and answer.report is not None and answer.report.completion_tokens is not None:
            job.settles = home.created_by
            homes.counted(home)
        else:
            answer.report = None  # Its tokens were counted before, or it still runs.
        return answer
