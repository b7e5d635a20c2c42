"""One call to a chosen backend: connection, request, answer, and what its end says about the backend."""

import asyncio
from time import perf_counter
from typing import Any

from router_service.openai_api.event_stream import EventStream
from router_service.pipeline import resume
from router_service.pipeline.answer import Answer
from router_service.pipeline.attempt_end import End
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.job import Job
from router_service.pipeline.relay import Relay
from router_service.ports import ConnectFailed, Exchange, Upstream
from router_service.records.record import AttemptRecord
from router_service.routing.decision import Decision
from router_service.routing.rules import Timeouts
from router_service.routing.snapshot import Attempt, BackendView

_FAULTS = frozenset(
    {
        End.REJECTED,
        End.CONNECT_FAILED,
        End.CONNECT_TIMEOUT,
        End.BROKEN,
        End.MALFORMED,
        End.ENGINE_ERROR,
        End.INCOMPLETE,
        End.FIRST_TOKEN_TIMEOUT,
        End.IDLE_TIMEOUT,
    }
)
"""Ends that count against a backend. A timeout of the whole request may be nobody's fault."""


class Attempts:
    """Makes attempts; ``running`` are the answers under way."""

    def __init__(self, fleet: Fleet, upstream: Upstream) -> None:
        self.running: set[Answer] = set()
        self._fleet = fleet
        self._upstream = upstream

    async def run(
        self,
        job: Job,
        relay: Relay,
        decision: Decision,
        body: dict[str, Any],
        attempt: Attempt,
        continuation: "resume.Continuation | None" = None,
    ) -> Answer:
        """One call to the chosen backend, which `_decide` has counted in; counts it out."""
        backend = decision.chosen
        assert backend is not None
        features = job.features
        assert features is not None
        timeouts = _timeouts(job, decision)
        record = AttemptRecord(backend.name)
        job.attempts.append(record)
        events = EventStream(job.drops_usage(body))
        if decision.rule is not None and decision.rule.resume and continuation is None and features.stream:
            events.keep()
            job.kept = events.kept
        answer = Answer(
            relay,
            job.inbound.path,
            job.head_maker(decision),
            streamed=features.stream,
            events=events,
            timeouts=timeouts,
            deadline=job.deadline,
            reject=job.settings.reject,
            trailers=job.wants_trailers,
            started=continuation is not None,
            seam=continuation.seam if continuation is not None else None,
        )
        self.running.add(answer)
        healthy: bool | None = None
        try:
            request = continuation.body if continuation is not None else job.inbound.body
            await self._exchange(job, relay, backend, answer, request, timeouts, record)
            if answer.end is End.COMPLETE:
                healthy = True
            elif answer.end in _FAULTS and not 400 <= answer.status < 500:
                healthy = False
        finally:
            self.running.discard(answer)
            self._fleet.end(backend, healthy)
            record.outcome = answer.end
            record.status = answer.status
            record.detail = answer.error
            if answer.first_byte_at:
                record.first_byte_ms = (answer.first_byte_at - answer.sent_at) * 1e3
            job.stamp(answer, backend)
        return answer

    async def _exchange(
        self,
        job: Job,
        relay: Relay,
        backend: BackendView,
        answer: Answer,
        body: bytes,
        timeouts: Timeouts,
        record: AttemptRecord,
    ) -> None:
        """Connect, send, and wait for the end of the answer; a stale connection is dialled again once."""
        upstream = self._upstream
        job.attempt_began = perf_counter()
        if len(job.attempts) == 1:
            job.queued_first_seconds = job.queued_seconds
        exchange: Exchange | None = upstream.idle(backend.url)
        request = job.request_head(upstream, backend.url, len(body)) + body
        redialled = False
        while True:
            if exchange is None:
                left = job.deadline - perf_counter()
                try:
                    exchange = await upstream.connect(
                        backend.url, max(0.001, min(timeouts.connect_seconds, left))
                    )
                except ConnectFailed as error:
                    answer.end = End.CONNECT_TIMEOUT if error.timed_out else End.CONNECT_FAILED
                    answer.error = str(error)
                    record.connect_ms = (perf_counter() - job.attempt_began) * 1e3
                    return
            job.connected_at = perf_counter()
            record.connect_ms = (job.connected_at - job.attempt_began) * 1e3
            if relay.gone:
                exchange.close()
                answer.end = End.CLIENT_GONE
                return
            answer.send(exchange, request)
            try:
                await answer.done
            except asyncio.CancelledError:
                answer.stop(End.CLIENT_GONE, "cancelled")
                raise
            if answer.end is End.STALE and not relay.gone and not redialled:
                redialled = True
                job.stale_connections += 1
                answer.again()
                exchange = None
                continue
            return


def _timeouts(job: Job, decision: Decision) -> Timeouts:
    rule = decision.rule
    timeouts = job.settings.policy.timeouts
    if rule is not None and rule.timeouts is not None:
        timeouts = rule.timeouts
    job.deadline = job.inbound.received + timeouts.total_seconds
    return timeouts
