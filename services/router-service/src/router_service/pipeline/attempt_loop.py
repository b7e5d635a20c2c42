"""The attempts of one request: the first, its retries, and the continuations of a broken stream.

Must not write to the client or end the request: it raises a `RequestEnd`, and `Pipeline.handle` does both.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from router_service.pipeline import ends, resume
from router_service.pipeline.answer import Answer
from router_service.pipeline.attempts import Attempts
from router_service.pipeline.ends import BrokenOff, ClientLeft, End, Refused, Rejected, RequestEnd
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.job import Job
from router_service.pipeline.placement import Placement
from router_service.pipeline.relay import Relay
from router_service.routing.decision import Decision
from router_service.routing.snapshot import Attempt, BackendView
from router_service.routing.vocabulary import Unroutable

if TYPE_CHECKING:
    from router_service.pipeline.shadows import Shadows


class AttemptLoop:
    """Makes attempts until one completes the response. After :meth:`stop` it makes no retries."""

    def __init__(self, fleet: Fleet, placement: Placement, attempts: Attempts, shadows: "Shadows") -> None:
        self._fleet = fleet
        self._placement = placement
        self._attempts = attempts
        self._shadows = shadows
        self._stopping = False

    def stop(self) -> None:
        """Make no attempts beyond the running ones."""
        self._stopping = True

    async def run(self, job: Job, relay: Relay, body: dict[str, Any]) -> Answer | None:
        """Return the complete response, or None if only the end of a broken stream was missing and has been written.

        Raises:
            Refused: no backend answered. Rejected: the last backend answered with an error status.
            BrokenOff: the response began and could not be completed.
            ClientLeft: the client disconnected.
        """
        attempt: Attempt = "first"
        tried: tuple[str, ...] = ()
        last: Answer | None = None
        broken: Answer | None = None
        continuation: resume.Continuation | None = None
        while True:
            try:
                decision = await self._placement.decide(job, relay, tried, attempt)
            except Refused:
                if last is None or broken is None:
                    raise
                break
            backend = decision.chosen
            if backend is None:
                if last is None:
                    raise Refused(_unroutable(decision, job))
                break
            if attempt == "first" and decision.rule is not None and decision.rule.shadow is not None:
                self._offer(job, decision, body)
            last = await self._attempts.run(job, relay, decision, body, continuation)
            if continuation is not None:
                _note_resume(job, last, continuation)
            if last.end is End.COMPLETE:
                return last
            if last.end is End.CLIENT_GONE:
                _take(job, last)
                raise ClientLeft
            if broken is None and last.started:
                broken = last
                _take(job, last)
                job.status = last.status
            if last.end is not End.DIVERGED:  # The backend itself works, so it may receive the whole text.
                tried = (*tried, backend.name)
            if broken is not None:
                if continuation is not None and continuation.seam.written:
                    _take(job, last)
                    break
                continuation = resume.continuation(
                    job, decision, body, broken, back=last.end is not End.DIVERGED
                )
                if continuation is None or relay.gone:
                    break
                # max_tokens was reached: only the end of the stream was missing.
                if continuation.finished is not None:
                    job.resumes.append("ok")
                    relay.write(continuation.finished)
                    relay.finish(broken.token_trailer())
                    return None
            if not self._may_go_on(job, last, backend):
                break
            attempt = "retry" if broken is None else "resume"
        raise end_after(last, broken, relay)

    def _offer(self, job: Job, decision: Decision, body: dict[str, Any]) -> None:
        """Offer the request to its rule's shadow. An error there must not end the request, which is counted in already."""
        try:
            self._shadows.offer(job, decision, body)
        except Exception as error:
            job.shadow = None
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"request {job.request_id} was not copied", "exception": error}
            )

    def _may_go_on(self, job: Job, last: Answer, at: BackendView) -> bool:
        """Return whether to make another attempt after ``last`` at that backend, and spend the budget for it.

        A retry is free if the failed backend can no longer be working on the request: it adds no load. Then
        only `max_attempts` and the breaker limit it.
        """
        self.end_retry(job)
        if last.end is End.TOTAL_TIMEOUT or self._stopping or len(job.attempts) >= job.settings.max_attempts:
            return False
        if last.end in ends.LEFT_NO_WORK or at.unusable in ends.WORKS_NO_MORE:
            return True
        job.retrying = self._fleet.budget.try_spend()
        return job.retrying

    def end_retry(self, job: Job) -> None:
        """Return this request's retry, if it used one, to the budget."""
        if job.retrying:
            self._fleet.budget.give_back()
            job.retrying = False


def _note_resume(job: Job, answer: Answer, continuation: resume.Continuation) -> None:
    if answer.end is End.COMPLETE:
        job.resumes.append("ok")
    elif answer.end is not End.DIVERGED:
        job.resumes.append("failed")


def _take(job: Job, answer: Answer) -> None:
    job.take_report(answer.report)


def end_after(last: Answer, broken: Answer | None, relay: Relay) -> RequestEnd:
    """Return the end of a request whose last attempt failed."""
    if relay.gone:
        return ClientLeft()
    if broken is not None:
        return BrokenOff(last, stream=broken.events is not None)
    if last.end is End.REJECTED:
        return Rejected(last)
    return Refused(ends.BY_END[last.end])


_UNROUTABLE: dict[Unroutable | None, ends.Refusal] = {
    Unroutable.HOME_AT_LIMIT: ends.HOME_AT_LIMIT,
    Unroutable.HOME_NOT_READY: ends.HOME_NOT_READY,
    Unroutable.HOME_GONE: ends.RESPONSE_LOST,
}


def _unroutable(decision: Decision, job: Job) -> ends.Refusal:
    model = job.features.model if job.features is not None else ""
    if decision.unroutable is Unroutable.MODEL_NOT_FOUND:
        return ends.model_not_found(model)
    if decision.unroutable is Unroutable.MODEL_NOT_ALLOWED:
        access = job.settings.policy.access
        return ends.model_not_allowed(model, hidden=access is not None and access.hide_forbidden)
    if decision.unroutable is Unroutable.REFUSED_BY_RULE and decision.rule is not None:
        return ends.refused_by_rule(decision.rule)
    return _UNROUTABLE.get(decision.unroutable, ends.NONE_READY)
