"""The ends a request can come to without an answer of a backend's own: what the client is told, what is recorded."""

from router_service.openai_api.errors import translated_error
from router_service.pipeline import headers as fields
from router_service.pipeline.answer import Answer, token_header
from router_service.pipeline.job import Job
from router_service.pipeline.refusals import Refusal
from router_service.pipeline.relay import Relay
from router_service.routing.vocabulary import Outcome


def refuse(job: Job, relay: Relay, refusal: Refusal) -> None:
    """Answer with a refusal."""
    job.outcome = refusal.outcome
    job.detail = refusal.message
    _answer_error(job, relay, refusal.status, refusal.headers(), refusal.body())


def pass_rejection(job: Job, relay: Relay, answer: Answer) -> None:
    """The last backend refused with a status: the client gets that status and message."""
    body = translated_error(answer.status, answer.rejected_body())
    found = [(b"content-type", b"application/json")]
    if answer.status == 503:
        found.append((b"retry-after", fields.first(answer.headers, b"retry-after") or b"1"))
    job.outcome = Outcome.UPSTREAM_ERROR
    _answer_error(job, relay, answer.status, found, body)


def cancelled(job: Job) -> None:
    """The client left; nobody is told anything."""
    job.outcome = Outcome.CANCELLED
    job.status = 499


def _answer_error(job: Job, relay: Relay, status: int, found: fields.RawHeaders, body: bytes) -> None:
    if relay.gone:
        cancelled(job)
        return
    job.status = status
    found.append((b"content-length", b"%d" % len(body)))
    if job.wants_trailers:
        found.append(token_header(0, 0))
    relay.start(status, job.route_headers() + found)
    relay.write(body)
    relay.finish()
