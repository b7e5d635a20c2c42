"""How attempts and requests can end: closed lists, and the error response for each.

Owns `End` (one attempt), `Refusal` (a request without a backend's response) and the table between them. Must
not depend on how bytes are carried.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING

from router_service.openai_api.errors import ErrorForm, error_body, error_event, translated_error
from router_service.pipeline import headers as fields
from router_service.routing.rules import Rule
from router_service.routing.vocabulary import Outcome, RejectedBecause

if TYPE_CHECKING:
    from router_service.pipeline.answer import Answer
    from router_service.pipeline.job import Job
    from router_service.pipeline.relay import Relay


class End(StrEnum):
    """How an attempt ended."""

    COMPLETE = "complete"
    REJECTED = "rejected"  # a status that counts as a failed attempt
    CONNECT_FAILED = "connect_failed"
    STALE = "stale"
    BROKEN = "broken"  # its connection was lost
    MALFORMED = "malformed"  # invalid HTTP, or over a size limit
    ENGINE_ERROR = "engine_error"  # reported as an event of the stream
    INCOMPLETE = "incomplete"  # a clean end without the terminal event
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    CLIENT_GONE = "client_gone"
    BACKEND_LOST = "backend_lost"  # found stuck or unreachable before its answer began
    DIVERGED = "diverged"  # a continued stream that did not repeat the client's text


TIMEOUTS = frozenset({End.CONNECT_TIMEOUT, End.FIRST_TOKEN_TIMEOUT, End.IDLE_TIMEOUT, End.TOTAL_TIMEOUT})

FAULTS = frozenset(
    {
        *(End.REJECTED, End.CONNECT_FAILED, End.CONNECT_TIMEOUT, End.BROKEN, End.MALFORMED),
        *(End.ENGINE_ERROR, End.INCOMPLETE, End.FIRST_TOKEN_TIMEOUT, End.IDLE_TIMEOUT),
    }
)
"""Ends that count against a backend. The timeout of the whole request does not: the backend may be healthy.
"""

NEVER_SENT = frozenset({End.CONNECT_FAILED, End.CONNECT_TIMEOUT, End.STALE})
"""Ends of attempts that no engine worked on: the request was not sent, or its connection had already been closed."""

LEFT_NO_WORK = frozenset({End.CONNECT_FAILED, End.BROKEN, End.BACKEND_LOST})
"""Ends after which the backend is not working on the request: its connection is gone."""

WORKS_NO_MORE = frozenset({RejectedBecause.UNREACHABLE, RejectedBecause.STUCK})
"""Reasons that mark a backend as dead, frozen or wedged: it is working on no request."""


_NOT_ALLOWED = "the client may not use the requested model (clients.models)"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error response to a request that no backend answered. ``retry_after_seconds`` None: no
    `retry-after` header.

    ``detail`` replaces ``message`` in the record where the message repeats a client's text.
    """

    status: int
    code: str
    message: str
    outcome: Outcome
    retry_after_seconds: int | None = None
    can_retry: bool = True
    param: str | None = None
    detail: str = ""

    def body(self, form: ErrorForm = ErrorForm.OPENAI) -> bytes:
        """Return the error body in the form of the request's API."""
        return error_body(self.status, self.message, self.code, self.param, form)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers other than content type and length."""
        found = [(b"content-type", b"application/json")]
        if self.retry_after_seconds is not None:
            found.append((b"retry-after", b"%d" % self.retry_after_seconds))
        if not self.can_retry:
            found.append((b"x-should-retry", b"false"))
        return found


def bad_body(message: str) -> Refusal:
    """Return a 400: the body cannot be routed."""
    return Refusal(400, "invalid_body", message, Outcome.CLIENT_ERROR)


def engine_control(name: str) -> Refusal:
    """Return a 400: the body sets a field that controls the engine for all clients."""
    message = f"`{name}` is set by the operator's rules; remove it"
    return Refusal(400, "engine_control", message, Outcome.CLIENT_ERROR, param=name)


def too_large(limit: int) -> Refusal:
    """Return a 413: the body has more than ``limit`` bytes."""
    message = f"the request body is larger than {limit} bytes"
    return Refusal(413, "body_too_large", message, Outcome.CLIENT_ERROR)


def model_not_found(model: str) -> Refusal:
    """Return a 404: no pool serves the model. The model's name is truncated in the message."""
    message = f"The model `{model}` does not exist." if model else "you must provide a model parameter"
    detail = "no pool serves the requested model"
    return Refusal(404, "model_not_found", message, Outcome.CLIENT_ERROR, param="model", detail=detail)


def response_not_found(response_id: str) -> Refusal:
    """Return a 404 as an engine would: no backend is known to have this response of this client."""
    message = f"Response with id '{response_id}' not found."
    detail = "no backend is known to have the response"
    return Refusal(
        404,
        "response_not_found",
        message,
        Outcome.CLIENT_ERROR,
        can_retry=False,
        param="response_id",
        detail=detail,
    )


def model_not_allowed(model: str, *, hidden: bool) -> Refusal:
    """403: the client may not use the model; the answer for an unknown model where forbidden ones are ``hidden``."""
    if hidden:
        return replace(model_not_found(model), detail=_NOT_ALLOWED)
    message = f"You may not use the model `{model}`; GET /v1/models lists those that you may use."
    return Refusal(
        403,
        "model_not_allowed",
        message,
        Outcome.CLIENT_ERROR,
        can_retry=False,
        param="model",
        detail=_NOT_ALLOWED,
    )


def refused_by_rule(rule: Rule) -> Refusal:
    """The status and message that a rule gives the requests it refuses."""
    assert rule.refusal is not None
    detail = f"refused by rule {rule.name}"
    return Refusal(
        *(rule.refusal.status, "refused_by_rule", rule.refusal.message, Outcome.CLIENT_ERROR),
        can_retry=rule.refusal.status == 429,
        detail=detail,
    )


NONE_READY = Refusal(
    503, "no_backend_ready", "no backend for this model is ready; try again", Outcome.REFUSED, 2
)
SHUTTING_DOWN = Refusal(503, "no_backend_ready", "the router is shutting down; try again", Outcome.REFUSED, 1)
OVERLOADED = Refusal(
    503, "overloaded", "every backend is busy and the queue is full; try again", Outcome.REFUSED, 1
)
WAITED_TOO_LONG = Refusal(503, "overloaded", "no backend became free in time; try again", Outcome.REFUSED, 1)


def not_started(hold_seconds: float, start_seconds: float | None) -> Refusal:
    """Return a 503: no backend became ready while the request waited. ``start_seconds``: duration of the last start."""
    message = f"no backend for this model became ready within {hold_seconds:g} s; try again"
    return replace(NONE_READY, message=message, retry_after_seconds=_after_start(start_seconds))


def too_many_wait_for_start(slots: int, start_seconds: float | None) -> Refusal:
    """Return a 503: no backend is ready, and ``slots`` requests wait for one already."""
    message = f"no backend for this model is ready, and {slots} requests wait for one already; try again"
    return Refusal(503, "start_queue_full", message, Outcome.REFUSED, _after_start(start_seconds))


def _after_start(start_seconds: float | None) -> int | None:
    return NONE_READY.retry_after_seconds if start_seconds is None else max(1, ceil(start_seconds))


TOTAL_TIME_UP = Refusal(
    504, "timeout", "the request took longer than total_seconds", Outcome.TIMEOUT, can_retry=False
)

RESPONSE_LOST = Refusal(
    404,
    "response_lost",
    "The backend that has the response is not in its pool now. If it does not return, send the whole conversation again.",
    Outcome.CLIENT_ERROR,
    param="response_id",
)

HOME_AT_LIMIT = Refusal(
    503,
    "response_backend_busy",
    "The backend that has the previous response is at its limit. Try again.",
    Outcome.REFUSED,
    1,
)

HOME_NOT_READY = Refusal(
    503,
    "response_backend_not_ready",
    "The backend that has the previous response cannot serve requests now. If it does not return, send the whole "
    "conversation without previous_response_id.",
    Outcome.REFUSED,
    1,
)

HOMES_UNKNOWN = Refusal(
    503,
    "response_unreachable",
    "the store that knows which backend has the response does not reply; try again",
    Outcome.UPSTREAM_ERROR,
    1,
)

BODY_LATE = Refusal(
    408, "request_timeout", "the request body did not arrive within total_seconds", Outcome.TIMEOUT
)

BY_END: dict[End, Refusal] = {
    End.CONNECT_FAILED: Refusal(
        503, "upstream_unreachable", "the backend could not be reached", Outcome.UPSTREAM_ERROR, 1
    ),
    End.CONNECT_TIMEOUT: Refusal(
        503, "upstream_unreachable", "the backend could not be reached in time", Outcome.TIMEOUT, 1
    ),
    End.STALE: Refusal(
        502, "upstream_disconnect", "the backend closed the connection", Outcome.UPSTREAM_ERROR
    ),
    End.BROKEN: Refusal(
        502, "upstream_disconnect", "the backend closed the connection", Outcome.UPSTREAM_ERROR
    ),
    End.MALFORMED: Refusal(
        502, "upstream_error", "the backend sent an invalid HTTP response", Outcome.UPSTREAM_ERROR
    ),
    End.ENGINE_ERROR: Refusal(502, "upstream_error", "the engine reported an error", Outcome.UPSTREAM_ERROR),
    End.INCOMPLETE: Refusal(
        502, "upstream_disconnect", "the backend ended its response early", Outcome.UPSTREAM_ERROR
    ),
    End.BACKEND_LOST: Refusal(
        503, "upstream_unreachable", "the backend stopped working on its requests", Outcome.UPSTREAM_ERROR, 1
    ),
    End.FIRST_TOKEN_TIMEOUT: Refusal(
        504, "upstream_timeout", "the backend sent no first token in time", Outcome.TIMEOUT
    ),
    End.IDLE_TIMEOUT: Refusal(504, "upstream_timeout", "the backend stopped sending tokens", Outcome.TIMEOUT),
    End.TOTAL_TIMEOUT: TOTAL_TIME_UP,
}
"""The error response by the end of the last attempt, if that attempt sent no body byte."""


class RequestEnd(Exception):
    """Why a request ends without a complete response; `Pipeline.handle` catches it and calls :meth:`apply`."""

    def apply(self, job: "Job", relay: "Relay | None") -> None:
        """Record the outcome, and write the rest of the response to the client."""
        raise NotImplementedError


class ClientLeft(RequestEnd):
    """The client disconnected; nothing is written."""

    def apply(self, job: "Job", relay: "Relay | None") -> None:
        job.outcome = Outcome.CANCELLED
        job.status = 499
        job.cut_off = True


class Refused(RequestEnd):
    """The request ends before its response began."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self._refusal = refusal

    def apply(self, job: "Job", relay: "Relay | None") -> None:
        refusal = self._refusal
        job.outcome = refusal.outcome
        job.detail = refusal.detail or refusal.message
        if job.opened:
            _break_off(job, relay, refusal.message, refusal.code)
            return
        _answer(job, relay, refusal.status, refusal.headers(), refusal.body(job.inbound.path.error_form))


class Rejected(RequestEnd):
    """The last backend answered with a status that counts as a failed attempt; the client receives that
    response.
    """

    def __init__(self, answer: "Answer") -> None:
        super().__init__(answer.error)
        self._answer = answer

    def apply(self, job: "Job", relay: "Relay | None") -> None:
        answer = self._answer
        if job.opened:
            job.outcome = Outcome.UPSTREAM_ERROR
            _break_off(job, relay, answer.error, "upstream_error")
            return
        found = [(b"content-type", b"application/json")]
        if answer.status == 503:
            found.append((b"retry-after", fields.first(answer.headers, b"retry-after") or b"1"))
        job.outcome = Outcome.UPSTREAM_ERROR
        body = translated_error(answer.status, answer.rejected_body(), job.inbound.path.error_form)
        _answer(job, relay, answer.status, found, body)


class BrokenOff(RequestEnd):
    """The response began and cannot be completed. The client receives an error event, then the connection
    closes.
    """

    def __init__(self, answer: "Answer", *, stream: bool) -> None:
        super().__init__(answer.error)
        self._end = answer.end
        self._why = answer.error
        self._stream = stream

    def apply(self, job: "Job", relay: "Relay | None") -> None:
        assert relay is not None
        job.outcome = Outcome.TIMEOUT if self._end in TIMEOUTS else Outcome.TRUNCATED
        job.detail = self._why
        if self._stream:
            refusal = BY_END.get(self._end)
            code = refusal.code if refusal is not None else "upstream_disconnect"
            form = job.inbound.path.error_form
            relay.write(error_event(f"the response broke off: {self._why}", code, form=form))
        job.cut_off = True
        relay.abort()


def _break_off(job: "Job", relay: "Relay | None", message: str, code: str) -> None:
    """End an event stream before its first event with one error event; the client has its head and maybe comments."""
    assert relay is not None
    if relay.gone:
        ClientLeft().apply(job, relay)
        return
    job.status = 200
    job.cut_off = True
    relay.write(error_event(message, code, form=job.inbound.path.error_form))
    relay.abort()


def _answer(job: "Job", relay: "Relay | None", status: int, found: fields.RawHeaders, body: bytes) -> None:
    """Write a whole error response."""
    assert relay is not None
    if relay.gone:
        ClientLeft().apply(job, relay)
        return
    job.status = status
    found.append((b"content-length", b"%d" % len(body)))
    if job.wants_trailers and not reached_engine(job):
        found.append(fields.token_header(0, 0))
    relay.start(status, job.route_headers() + found)
    relay.write(body)
    relay.finish()


def reached_engine(job: "Job") -> bool:
    """Return whether an engine may have worked on the request; its tokens are then unknown until the engine reports."""
    return any(attempt.outcome not in NEVER_SENT for attempt in job.attempts)
