"""One request from decision to answer: attempts, waiting, retries, and exactly one end.

It refuses to know HTTP servers, sockets and how records are shown.
"""

import asyncio
from collections.abc import Callable
from random import Random
from time import perf_counter
from typing import Any

from router_service.openai_api.errors import error_event, translated_error
from router_service.openai_api.event_stream import EventStream
from router_service.pipeline import headers as fields
from router_service.pipeline import refusals, resume
from router_service.pipeline.answer import TIMEOUTS, Answer, End, token_header
from router_service.pipeline.dry_run import dry_run
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.inbound import BadBody, Inbound
from router_service.pipeline.job import Job
from router_service.pipeline.refusals import Refusal
from router_service.pipeline.relay import Relay
from router_service.pipeline.sessions import SessionPins
from router_service.pipeline.settings import Settings
from router_service.ports import ConnectFailed, Exchange, Upstream
from router_service.records.record import AttemptRecord
from router_service.resilience.fair_queue import QueueFull
from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.features import TooDeep, extract_features
from router_service.routing.hashing import digest
from router_service.routing.rules import Timeouts
from router_service.routing.snapshot import Attempt, BackendView, Snapshot
from router_service.routing.vocabulary import AffinityState, Outcome, Unroutable
from router_service.telemetry.trace_context import continued

_FAULTS = frozenset(
    {
        End.REJECTED,
        End.CONNECT_FAILED,
        End.CONNECT_TIMEOUT,
        End.STALE,
        End.BROKEN,
        End.ENGINE_ERROR,
        End.INCOMPLETE,
        End.FIRST_TOKEN_TIMEOUT,
        End.IDLE_TIMEOUT,
    }
)
"""Ends that count against a backend. A timeout of the whole request may be nobody's fault."""


class Pipeline:
    """Handles requests. ``finished`` is called exactly once for each, after its end."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        upstream: Upstream,
        pins: SessionPins | None,
        finished: Callable[[Job], None],
        observe_decide: Callable[[float], None],
        random: Random,
    ) -> None:
        self.settings = settings
        self.fleet = fleet
        self.stopping = False
        self._upstream = upstream
        self._pins = pins
        self._finished = finished
        self._observe_decide = observe_decide
        self._random = random
        self._running: set[Answer] = set()

    # -- in ------------------------------------------------------------------------------------

    async def handle(self, inbound: Inbound, relay: Relay) -> None:
        """Answer one request, whatever happens, and report it."""
        job = self.begin(inbound)
        self.fleet.budget.enter()
        try:
            await self._serve(job, relay)
        except asyncio.CancelledError:
            job.outcome = job.outcome or Outcome.CANCELLED
            relay.abort()
            raise
        finally:
            if job.retrying:
                self.fleet.budget.give_back()
                job.retrying = False
            self.fleet.budget.leave()
            job.ended = perf_counter()
            self._finished(job)

    def begin(self, inbound: Inbound) -> Job:
        """Read ids and trace context."""
        by_name = dict(inbound.headers)
        settings = self.settings
        return Job(
            inbound=inbound,
            settings=settings,
            request_id=fields.request_id(by_name.get(b"x-request-id")),
            client_id=fields.safe_name(by_name.get(b"x-client-id")),
            session_id=fields.safe_name(by_name.get(settings.session_header)),
            trace=continued(by_name.get(b"traceparent"), settings.trace_ratio, self._random),
            wants_trailers=b"trailers" in by_name.get(b"te", b""),
        )

    def refuse_now(self, inbound: Inbound, relay: Relay, refusal: Refusal) -> None:
        """Refuse a request that never got as far as a decision, with a record of its own."""
        job = self.begin(inbound)
        self._refuse(job, relay, refusal)
        job.ended = perf_counter()
        self._finished(job)

    def cancelled_early(self, inbound: Inbound) -> None:
        """The client left while its body was being read."""
        job = self.begin(inbound)
        job.outcome = Outcome.CANCELLED
        job.status = 499
        job.ended = perf_counter()
        self._finished(job)

    async def try_decide(self, body: dict[str, Any], path: str, headers: fields.RawHeaders) -> dict[str, Any]:
        """Decide a request without sending it, by the settings and the fleet as they are now."""
        return await dry_run(self.settings, self.fleet, self._pins, body, path, headers)

    def abort_all(self, why: str) -> None:
        """End every answer under way with an error (the end of a graceful shutdown)."""
        for answer in list(self._running):
            answer.stop(End.TOTAL_TIMEOUT, why)

    # -- one request -----------------------------------------------------------------------------

    async def _serve(self, job: Job, relay: Relay) -> None:
        settings = job.settings
        try:
            body = job.inbound.json()
        except BadBody as error:
            self._refuse(job, relay, refusals.bad_body(str(error)))
            return
        try:
            job.features = extract_features(
                body,
                job.inbound.path.path,
                fields.HeaderView(job.inbound.headers),
                client_id=job.client_id,
                request_id=job.request_id,
                session_id=job.session_id,
                needs=settings.policy.needs,
            )
        except TooDeep as error:
            self._refuse(job, relay, refusals.bad_body(str(error)))
            return
        job.deadline = job.inbound.received + settings.policy.timeouts.total_seconds
        tried: tuple[str, ...] = ()
        attempt: Attempt = "first"
        refusal: Refusal | None = None
        last: Answer | None = None
        while True:
            decision = await self._decide(job, relay, tried, attempt)
            if decision is None:
                return
            if decision.chosen is None:
                if last is None:
                    refusal = _unroutable(decision, job.features.model)
                break
            last = await self._attempt(job, relay, decision, body, attempt)
            if last.end is End.COMPLETE or last.end is End.CLIENT_GONE:
                self._note_end(job, last)
                return
            if last.started:
                await self._broken_stream(job, relay, decision, body, last)
                return
            refusal = refusals.BY_END.get(last.end)
            if last.end is End.TOTAL_TIMEOUT or len(job.attempts) >= settings.max_attempts or self.stopping:
                break
            if job.retrying:
                self.fleet.budget.give_back()
                job.retrying = False
            # A connection that was refused gave no backend anything to do: going on repeats no work.
            if last.end is not End.CONNECT_FAILED:
                if not self.fleet.budget.try_spend():
                    break
                job.retrying = True
            tried = (*tried, decision.chosen.name)
            attempt = "retry"
        if relay.gone:
            job.outcome = Outcome.CANCELLED
            job.status = 499
        elif last is not None and last.end is End.REJECTED:
            self._pass_rejection(job, relay, last)
        else:
            assert refusal is not None
            self._refuse(job, relay, refusal)

    async def _decide(
        self, job: Job, relay: Relay, tried: tuple[str, ...], attempt: Attempt
    ) -> Decision | None:
        """Decide, waiting in the pool's line when all its backends are busy. None: already answered."""
        fleet = self.fleet
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
                decision = decide(features, snapshot, settings.policy, began)
                if features.session and decision.affinity is not AffinityState.OFF and self._pins is not None:
                    decision = await self._pinned(job, decision, snapshot, began)
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
                    job.outcome = Outcome.CANCELLED
                    job.status = 499
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
            self._refuse(job, relay, refusal)
            return None
        decision.chosen = None
        decision.unroutable = Unroutable.ALL_AT_LIMIT
        return decision

    async def _pinned(self, job: Job, placed: Decision, snapshot: Snapshot, now: float) -> Decision:
        """Decide again with the session's pin in that pool, when there is one."""
        pins = self._pins
        features = job.features
        assert pins is not None
        assert features is not None
        key = digest("pin", placed.pool, features.session)
        pin = pins.cached(key)
        if pin is None:
            pin = await pins.pin(key)
        if pin:
            snapshot.pin = job.pin = pin
            placed = decide(features, snapshot, job.settings.policy, now)
        if placed.chosen is not None:
            pins.placed(key, placed.chosen.name, moved=placed.affinity is AffinityState.BROKEN)
        return placed

    async def _attempt(
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
        self._running.add(answer)
        healthy: bool | None = None
        try:
            request = continuation.body if continuation is not None else job.inbound.body
            await self._exchange(job, relay, backend, answer, request, timeouts, record)
            if answer.end is End.COMPLETE:
                healthy = True
            elif answer.end in _FAULTS and not 400 <= answer.status < 500:
                healthy = False
        finally:
            self._running.discard(answer)
            self.fleet.end(backend, healthy)
            record.outcome = answer.end.value
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
            if answer.end is End.STALE and not relay.gone and not job.redialled:
                job.redialled = True
                job.stale_connections += 1
                answer.again()
                exchange = None
                continue
            return

    # -- ends ------------------------------------------------------------------------------------

    def _note_end(self, job: Job, answer: Answer) -> None:
        """A complete answer, or a client that left."""
        if job.retrying:
            self.fleet.budget.give_back()
            job.retrying = False
        job.take_report(answer.report)
        if answer.end is End.CLIENT_GONE:
            job.outcome = Outcome.CANCELLED
            job.status = 499
            return
        job.status = answer.status
        if answer.status < 400:
            job.outcome = Outcome.OK
        elif answer.status < 500:
            job.outcome = Outcome.CLIENT_ERROR
        else:
            job.outcome = Outcome.UPSTREAM_ERROR

    async def _broken_stream(
        self, job: Job, relay: Relay, decision: Decision, body: dict[str, Any], broken: Answer
    ) -> None:
        """The answer broke off after its first byte: continue it elsewhere, or end it as an error."""
        if job.retrying:
            self.fleet.budget.give_back()
            job.retrying = False
        job.take_report(broken.report)
        job.status = broken.status
        answer = broken
        back = True
        while True:
            if answer.end is End.DIVERGED:
                back, answer = False, broken
            elif decision.chosen is not None:
                job.resumed_from = (*job.resumed_from, decision.chosen.name)
            continuation = resume.continuation(job, decision, body, answer, back=back)
            if continuation is None or relay.gone or not self.fleet.budget.try_spend():
                break
            if continuation.finished is not None:  # the limit was reached: only the end was missing
                self.fleet.budget.give_back()
                relay.write(continuation.finished)
                relay.finish()
                job.resumes.append("ok")
                job.outcome = Outcome.OK
                return
            try:
                again = await self._decide(job, relay, job.resumed_from, "resume")
                if again is None:
                    return
                if again.chosen is None:
                    break
                decision = again
                answer = await self._attempt(job, relay, decision, body, "resume", continuation)
            finally:
                self.fleet.budget.give_back()
            job.take_report(answer.report)
            if answer.end is End.COMPLETE:
                job.resumes.append("ok")
                job.outcome = Outcome.OK
                return
            if answer.end is End.DIVERGED and back:
                continue
            job.resumes.append("failed")
            if answer.end is End.CLIENT_GONE:
                break
        if answer.end is End.CLIENT_GONE or relay.gone:
            job.outcome = Outcome.CANCELLED
            job.status = 499
            return
        job.outcome = Outcome.TIMEOUT if answer.end in TIMEOUTS else Outcome.TRUNCATED
        job.detail = answer.error
        if broken.events is not None:
            refusal = refusals.BY_END.get(answer.end)
            code = refusal.code if refusal is not None else "upstream_disconnect"
            relay.write(error_event(f"the answer broke off: {answer.error}", code))
        relay.abort()

    def _pass_rejection(self, job: Job, relay: Relay, answer: Answer) -> None:
        """The last backend refused with a status: the client gets that status and message."""
        body = translated_error(answer.status, answer.rejected_body())
        found = [(b"content-type", b"application/json")]
        if answer.status == 503:
            found.append((b"retry-after", fields.first(answer.headers, b"retry-after") or b"1"))
        job.outcome = Outcome.UPSTREAM_ERROR
        self._answer_error(job, relay, answer.status, found, body)

    def _refuse(self, job: Job, relay: Relay, refusal: Refusal) -> None:
        job.outcome = refusal.outcome
        job.detail = refusal.message
        self._answer_error(job, relay, refusal.status, refusal.headers(), refusal.body())

    def _answer_error(
        self, job: Job, relay: Relay, status: int, found: fields.RawHeaders, body: bytes
    ) -> None:
        if relay.gone:
            job.outcome = Outcome.CANCELLED
            job.status = 499
            return
        job.status = status
        found.append((b"content-length", b"%d" % len(body)))
        if job.wants_trailers:
            found.append(token_header(0, 0))
        relay.start(status, job.route_headers() + found)
        relay.write(body)
        relay.finish()


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


def _unroutable(decision: Decision, model: str) -> Refusal:
    if decision.unroutable is Unroutable.MODEL_NOT_FOUND:
        return refusals.model_not_found(model)
    return refusals.NONE_READY


def _timeouts(job: Job, decision: Decision) -> Timeouts:
    rule = decision.rule
    timeouts = job.settings.policy.timeouts
    if rule is not None and rule.timeouts is not None:
        timeouts = rule.timeouts
    job.deadline = job.inbound.received + timeouts.total_seconds
    return timeouts
