"""One call to a chosen backend: connection, request, response, and what the result says about the backend's
health.
"""

import asyncio
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from router_service.openai_api.body_edit import PieceEditor
from router_service.openai_api.delivered import delivered_tokens
from router_service.openai_api.event_stream import EventStream
from router_service.pipeline.answer import Answer
from router_service.pipeline.ends import FAULTS, WORKS_NO_MORE, End
from router_service.pipeline.engine_request import engine_request
from router_service.pipeline.job import Job
from router_service.pipeline.output_limit import Card, missing_limit, no_card
from router_service.pipeline.recipient import Recipient
from router_service.pipeline.relay import Relay
from router_service.pipeline.response_homes import NotedAnswer, ResponseHomes
from router_service.pipeline.watchdog import Alarms, Watchdog
from router_service.ports import ConnectFailed, Exchange, Upstream
from router_service.records.record import AttemptRecord
from router_service.routing.decision import Decision
from router_service.routing.snapshot import BackendView, PoolView

if TYPE_CHECKING:
    from router_service.pipeline.resume import Continuation


class Counts(Protocol):
    """Counts the attempts: the fleet, or the copies of requests."""

    pools: dict[str, PoolView]

    def end(self, backend: BackendView, healthy: bool | None, client: str, class_name: str = "") -> None:
        """Count an attempt out; ``healthy`` None: the attempt says nothing about the backend."""


class Attempts:
    """Makes attempts; ``running`` maps each running response to its request and decision.

    ``card`` returns what the engines report about a model.
    """

    def __init__(self, fleet: Counts, upstream: Upstream, homes: ResponseHomes | None = None) -> None:
        self.running: dict[Answer, tuple[Job, Decision]] = {}
        self._fleet = fleet
        self._upstream = upstream
        self._homes = homes
        self._alarms = Alarms()
        self.card: Card = no_card

    async def run(
        self,
        job: Job,
        relay: Relay,
        decision: Decision,
        body: dict[str, Any],
        continuation: "Continuation | None" = None,
    ) -> Answer:
        """Make one call to the chosen backend and count it out again; `Placement` has already counted it in."""
        backend = decision.chosen
        assert backend is not None
        answer: Answer | None = None
        healthy: bool | None = None
        record = AttemptRecord(backend.name)
        try:  # Everything that may raise is inside, because the attempt holds a slot already.
            job.attempts.append(record)
            features, inbound = job.features, job.inbound
            assert features is not None
            limit = (
                self._missing_limit(job, body, backend.pool, features.model) if job.reserved_tokens else {}
            )
            sent = engine_request(
                inbound.body, body, inbound.path, features, decision, job.settings.policy, limit
            )
            job.engine_fields = sent.fields
            answer = self._answer(job, relay, decision, body, continuation, sent.editor)
            self.running[answer] = (job, decision)
            request = continuation.body if continuation is not None else sent.body
            await self._exchange(job, relay, backend, answer, request, record)
            if answer.end is End.COMPLETE:
                healthy = True
            elif answer.end in FAULTS and not 400 <= answer.status < 500:
                healthy = False
            return answer
        finally:
            if answer is not None:
                self.running.pop(answer, None)
            self._fleet.end(backend, healthy, job.client_id, decision.class_name)
            if answer is not None:
                _note(record, answer)
                job.opened = job.opened or answer.opened
                job.stamp(answer, backend)

    def leave_lost_backends(self) -> None:
        """End every attempt at a dead, frozen or wedged backend if another backend can serve the request.

        Attempts whose client has received no token are ended. A stream that has begun is ended by its own idle
        timeout (`idle_seconds`), because an engine that still sends tokens works. The body of an unstreamed response
        has no such timeout; here it gets the same one.
        """
        now = perf_counter()
        for answer, (job, decision) in list(self.running.items()):
            backend = decision.chosen
            if backend is None or backend.unusable not in WORKS_NO_MORE:
                continue
            found = f"the backend was found {backend.unusable}"
            if answer.begun:
                if answer.events is None and now - answer.last_byte_at >= job.timeouts.idle_seconds:
                    answer.stop(End.IDLE_TIMEOUT, f"{found} and sent nothing for idle_seconds")
            elif len(job.attempts) < job.settings.max_attempts and self._has_other_backend(job, decision):
                answer.stop(End.BACKEND_LOST, found)

    def _missing_limit(self, job: Job, body: dict[str, Any], pool: str, model: str) -> dict[str, int]:
        settings = job.settings.policy.pools.get(pool)
        name = model if settings is None else settings.rewrites.get(model, model)
        longest = self.card(pool, name).get("max_model_len")
        return missing_limit(job.inbound.path, body, job.reserved_tokens, longest)

    def _has_other_backend(self, job: Job, decision: Decision) -> bool:
        tried = {attempt.backend for attempt in job.attempts}
        pools = self._fleet.pools
        for name in (decision.pool, *job.settings.policy.fallback.get(decision.pool, ())):
            view = pools.get(name)
            if view is not None and any(
                b.unusable is None and not b.breaker_open and b.name not in tried for b in view.backends
            ):
                return True
        return False

    def _answer(
        self,
        job: Job,
        relay: Relay,
        decision: Decision,
        body: dict[str, Any],
        continuation: "Continuation | None",
        editor: PieceEditor | None,
    ) -> Answer:
        features, backend = job.features, decision.chosen
        assert features is not None
        assert backend is not None
        rule = decision.rule
        timeouts = job.settings.policy.timeouts
        if rule is not None and rule.timeouts is not None:
            timeouts = rule.timeouts
        if timeouts is not job.timeouts:
            job.set_timeouts(timeouts)
        events = EventStream(job.drops_usage(body), job.inbound.path.error_form, editor)
        if continuation is None and rule is not None and rule.resume and features.stream:
            events.keep()
            job.kept = events.kept
        if job.wants_trailers and features.stream:
            job.delivered = delivered_tokens(job.inbound.path, body)
        recipient = Recipient(
            relay,
            job.inbound.path,
            job.response_headers,
            job.settings.reject,
            job.wants_trailers,
            continuation is not None,
            job.opened,
            editor,
            job.delivered,
        )
        clock = Watchdog(self._alarms, timeouts, job.deadline, streamed=features.stream)
        if self._homes is not None and job.inbound.path.stores and _may_be_stored(body, backend):
            # The end of a stream reports the tokens itself.
            uncounted = body.get("background") is True and not features.stream
            created_by = job.request_id if uncounted else ""
            note = partial(self._homes.note, job.client_id, backend=backend, created_by=created_by)
            return NotedAnswer(recipient, events, clock, note)
        return Answer(recipient, events, clock, continuation.seam if continuation is not None else None)

    async def _exchange(
        self, job: Job, relay: Relay, backend: BackendView, answer: Answer, body: bytes, record: AttemptRecord
    ) -> None:
        """Connect, send, and wait for the end of the response. A stale connection is replaced once."""
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
                        backend.url, max(0.001, min(job.timeouts.connect_seconds, left))
                    )
                except ConnectFailed as error:
                    answer.end = End.CONNECT_TIMEOUT if error.timed_out else End.CONNECT_FAILED
                    answer.error = str(error)
                    record.connect_ms = (perf_counter() - job.attempt_began) * 1e3
                    return
                except asyncio.CancelledError:
                    answer.end, answer.error = End.CLIENT_GONE, "cancelled"
                    raise
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
                # An answer that ended by itself has returned its connection, which may serve another request now.
                if answer.done.cancelled():
                    # Cancelling the wait has resolved `done`, so `stop` would do nothing.
                    exchange.abort()
                    answer.clock.stop()
                    answer.end, answer.error = End.CLIENT_GONE, "cancelled"
                raise
            if answer.end is End.STALE and not relay.gone and not redialled:
                redialled = True
                job.stale_connections += 1
                answer.again()
                exchange = None
                continue
            return


def _may_be_stored(body: dict[str, Any], backend: BackendView) -> bool:
    """Return whether the engine may keep the response for later requests, at a path where engines do."""
    return body.get("store") is not False and backend.stores_responses


def _note(record: AttemptRecord, answer: Answer) -> None:
    """Write the end of an attempt into its record."""
    record.outcome = answer.end
    record.status = answer.status
    record.detail = answer.error
    if answer.first_byte_at:
        record.first_byte_ms = (answer.first_byte_at - answer.clock.sent_at) * 1e3
