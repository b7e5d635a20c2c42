"""One request from decision to answer: attempts, waiting, retries, and exactly one end.

It refuses to know HTTP servers, sockets and how records are shown.
"""

import asyncio
from collections.abc import Callable
from random import Random
from time import perf_counter
from typing import Any

from router_service.openai_api.errors import error_event
from router_service.pipeline import headers as fields
from router_service.pipeline import refusals, resume
from router_service.pipeline.answer import Answer
from router_service.pipeline.attempt_end import TIMEOUTS, End
from router_service.pipeline.attempts import Attempts
from router_service.pipeline.dry_run import dry_run
from router_service.pipeline.ends import cancelled, pass_rejection, refuse
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.inbound import BadBody, Inbound
from router_service.pipeline.job import Job
from router_service.pipeline.placement import Placement
from router_service.pipeline.refusals import Refusal
from router_service.pipeline.relay import Relay
from router_service.pipeline.sessions import SessionPins
from router_service.pipeline.settings import Settings
from router_service.ports import Upstream
from router_service.routing.decision import Decision
from router_service.routing.features import TooDeep, extract_features
from router_service.routing.snapshot import Attempt, BackendView
from router_service.routing.vocabulary import Outcome, RejectedBecause, Unroutable
from router_service.telemetry.trace_context import continued

_LEFT_NO_WORK = frozenset({End.CONNECT_FAILED, End.BROKEN})
"""The connection is gone, and with it whatever the backend did for this request."""

_WORKS_NO_MORE = frozenset({RejectedBecause.UNREACHABLE, RejectedBecause.STUCK})
"""What its agent says of a backend that is dead, frozen or wedged: nothing is done there for anyone."""


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
        self._pins = pins
        self._finished = finished
        self._random = random
        self._placement = Placement(fleet, pins, observe_decide)
        self._attempts = Attempts(fleet, upstream)

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
            self._end_retry(job)
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
        refuse(job, relay, refusal)
        job.ended = perf_counter()
        self._finished(job)

    def cancelled_early(self, inbound: Inbound) -> None:
        """The client left while its body was being read."""
        job = self.begin(inbound)
        cancelled(job)
        job.ended = perf_counter()
        self._finished(job)

    async def try_decide(self, body: dict[str, Any], path: str, headers: fields.RawHeaders) -> dict[str, Any]:
        """Decide a request without sending it, by the settings and the fleet as they are now."""
        return await dry_run(self.settings, self.fleet, self._pins, body, path, headers)

    def abort_all(self, why: str) -> None:
        """End every answer under way with an error (the end of a graceful shutdown)."""
        for answer in list(self._attempts.running):
            answer.stop(End.TOTAL_TIMEOUT, why)

    # -- one request -----------------------------------------------------------------------------

    async def _serve(self, job: Job, relay: Relay) -> None:
        settings = job.settings
        try:
            body = job.inbound.json()
        except BadBody as error:
            refuse(job, relay, refusals.bad_body(str(error)))
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
            refuse(job, relay, refusals.bad_body(str(error)))
            return
        job.deadline = job.inbound.received + settings.policy.timeouts.total_seconds
        tried: tuple[str, ...] = ()
        attempt: Attempt = "first"
        refusal: Refusal | None = None
        last: Answer | None = None
        while True:
            decision = await self._placement.decide(job, relay, tried, attempt)
            if decision is None:
                return
            if decision.chosen is None:
                if last is None:
                    refusal = _unroutable(decision, job.features.model)
                break
            last = await self._attempts.run(job, relay, decision, body, attempt)
            if last.end is End.COMPLETE or last.end is End.CLIENT_GONE:
                self._note_end(job, last)
                return
            if last.started:
                await self._broken_stream(job, relay, decision, body, last, tried)
                return
            refusal = refusals.BY_END.get(last.end)
            if last.end is End.TOTAL_TIMEOUT or len(job.attempts) >= settings.max_attempts or self.stopping:
                break
            if not self._begin_retry(job, last.end, decision.chosen):
                break
            tried = (*tried, decision.chosen.name)
            attempt = "retry"
        if relay.gone:
            cancelled(job)
        elif last is not None and last.end is End.REJECTED:
            pass_rejection(job, relay, last)
        else:
            assert refusal is not None
            refuse(job, relay, refusal)

    def _begin_retry(self, job: Job, after: End, at: BackendView | None) -> bool:
        """Return whether another attempt may follow one that ended so ``at`` that backend.

        Where nobody works for the request any more it takes the other's place: it is no additional load and spends
        nothing. `max_attempts` and the breaker bound it.
        """
        self._end_retry(job)
        if after in _LEFT_NO_WORK or (at is not None and at.unusable in _WORKS_NO_MORE):
            return True
        job.retrying = self.fleet.budget.try_spend()
        return job.retrying

    def _end_retry(self, job: Job) -> None:
        """The budget has its retry back, if this request spent one."""
        if job.retrying:
            self.fleet.budget.give_back()
            job.retrying = False

    # -- ends ------------------------------------------------------------------------------------

    def _note_end(self, job: Job, answer: Answer) -> None:
        """A complete answer, or a client that left."""
        self._end_retry(job)
        job.take_report(answer.report)
        if answer.end is End.CLIENT_GONE:
            cancelled(job)
            return
        job.status = answer.status
        if answer.status < 400:
            job.outcome = Outcome.OK
        elif answer.status < 500:
            job.outcome = Outcome.CLIENT_ERROR
        else:
            job.outcome = Outcome.UPSTREAM_ERROR

    async def _broken_stream(
        self,
        job: Job,
        relay: Relay,
        decision: Decision,
        body: dict[str, Any],
        broken: Answer,
        tried: tuple[str, ...],
    ) -> None:
        """The answer broke off after its first byte: continue it elsewhere, or end it as an error.

        A continuation that ended before the client had anything of it is followed by another one.
        """
        job.take_report(broken.report)
        job.status = broken.status
        answer = broken
        back = True
        while True:
            if answer.end is End.DIVERGED:
                back = False  # that backend is well: it may be given the whole text
            elif decision.chosen is not None:
                tried = (*tried, decision.chosen.name)
            continuation = resume.continuation(job, decision, body, broken, back=back)
            if continuation is None or relay.gone:
                break
            if continuation.finished is not None:  # the limit was reached: only the end was missing
                relay.write(continuation.finished)
                relay.finish(broken.token_trailer())
                job.resumes.append("ok")
                job.outcome = Outcome.OK
                return
            if len(job.attempts) >= job.settings.max_attempts or not self._begin_retry(
                job, answer.end, decision.chosen
            ):
                break
            again = await self._placement.decide(job, relay, tried, "resume")
            if again is None:
                return
            if again.chosen is None:
                break
            decision = again
            answer = await self._attempts.run(job, relay, decision, body, "resume", continuation)
            if answer.end is End.COMPLETE:
                job.take_report(answer.report)
                job.resumes.append("ok")
                job.outcome = Outcome.OK
                return
            if answer.end is not End.DIVERGED:
                job.resumes.append("failed")
            if answer.end is End.CLIENT_GONE or continuation.seam.written:
                job.take_report(answer.report)
                break
        if answer.end is End.CLIENT_GONE or relay.gone:
            cancelled(job)
            return
        job.outcome = Outcome.TIMEOUT if answer.end in TIMEOUTS else Outcome.TRUNCATED
        job.detail = answer.error
        if broken.events is not None:
            refusal = refusals.BY_END.get(answer.end)
            code = refusal.code if refusal is not None else "upstream_disconnect"
            relay.write(error_event(f"the answer broke off: {answer.error}", code))
        relay.abort()


def _unroutable(decision: Decision, model: str) -> Refusal:
    if decision.unroutable is Unroutable.MODEL_NOT_FOUND:
        return refusals.model_not_found(model)
    return refusals.NONE_READY
