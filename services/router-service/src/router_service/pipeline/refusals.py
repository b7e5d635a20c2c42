"""Every way a request ends without a backend's answer: one table to status, code and headers."""

from dataclasses import dataclass

from router_service.openai_api.errors import error_body
from router_service.pipeline.attempt_end import End
from router_service.routing.vocabulary import Outcome


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the client is told. ``retry_after_seconds`` None: no such header."""

    status: int
    code: str
    message: str
    outcome: Outcome
    retry_after_seconds: int | None = None
    can_retry: bool = True
    param: str | None = None

    def body(self) -> bytes:
        """OpenAI's error body."""
        return error_body(self.status, self.message, self.code, self.param)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers beside the body's type and length."""
        found = [(b"content-type", b"application/json")]
        if self.retry_after_seconds is not None:
            found.append((b"retry-after", b"%d" % self.retry_after_seconds))
        if not self.can_retry:
            found.append((b"x-should-retry", b"false"))
        return found


def bad_body(message: str) -> Refusal:
    """400: the body cannot be routed."""
    return Refusal(400, "invalid_body", message, Outcome.CLIENT_ERROR)


def too_large(limit: int) -> Refusal:
    """413: more than ``limit`` bytes."""
    message = f"the request body is larger than {limit} bytes"
    return Refusal(413, "body_too_large", message, Outcome.CLIENT_ERROR)


def model_not_found(model: str) -> Refusal:
    """404: no pool serves the model."""
    message = f"The model `{model[:128]}` does not exist." if model else "you must provide a model parameter"
    return Refusal(404, "model_not_found", message, Outcome.CLIENT_ERROR, param="model")


NONE_READY = Refusal(
    503, "no_backend_ready", "no backend for this model is ready; try again", Outcome.REFUSED, 2
)
OVERLOADED = Refusal(
    503, "overloaded", "every backend is busy and the line is full; try again", Outcome.REFUSED, 1
)
WAITED_TOO_LONG = Refusal(503, "overloaded", "no backend became free in time; try again", Outcome.REFUSED, 1)
TOTAL_TIME_UP = Refusal(
    504, "timeout", "the request took longer than total_seconds", Outcome.TIMEOUT, can_retry=False
)

BODY_LATE = Refusal(
    408, "request_timeout", "the request's body did not come within total_seconds", Outcome.TIMEOUT
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
        502, "upstream_error", "the backend's answer could not be understood", Outcome.UPSTREAM_ERROR
    ),
    End.ENGINE_ERROR: Refusal(502, "upstream_error", "the engine reported an error", Outcome.UPSTREAM_ERROR),
    End.INCOMPLETE: Refusal(
        502, "upstream_disconnect", "the backend ended its answer early", Outcome.UPSTREAM_ERROR
    ),
    End.FIRST_TOKEN_TIMEOUT: Refusal(
        504, "upstream_timeout", "the backend did not begin to answer in time", Outcome.TIMEOUT
    ),
    End.IDLE_TIMEOUT: Refusal(504, "upstream_timeout", "the backend stopped answering", Outcome.TIMEOUT),
    End.TOTAL_TIMEOUT: TOTAL_TIME_UP,
}
"""What a request is told when its last attempt ended so before its first body byte."""
