"""Error bodies and error events in the format of each API, and the translation of engines' other error formats.

Does not choose statuses.
"""

from enum import StrEnum
from typing import Any

import orjson

_TYPE_OF_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}

_ANTHROPIC_TYPE_OF_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_ANTHROPIC_TYPES = frozenset({*_ANTHROPIC_TYPE_OF_STATUS.values(), "api_error", "billing_error"})

_ID_HEADERS = (b"x-request-id",)
_ANTHROPIC_ID_HEADERS = (b"x-request-id", b"request-id")

_MAX_MESSAGE_CHARS = 2000


class ErrorForm(StrEnum):
    """The API whose clients read the error."""

    OPENAI = "openai"
    RESPONSES = "responses"
    """OpenAI's error body, in streams whose events have names."""
    ANTHROPIC = "anthropic"


def error_type(status: int) -> str:
    """OpenAI's ``type`` for a status; ``server_error`` for 5xx, ``invalid_request_error`` for other 4xx."""
    known = _TYPE_OF_STATUS.get(status)
    if known is not None:
        return known
    return "server_error" if status >= 500 else "invalid_request_error"


def anthropic_type(status: int) -> str:
    """Return Anthropic's ``type`` for a status: ``api_error`` for other 5xx, ``invalid_request_error`` for 4xx."""
    known = _ANTHROPIC_TYPE_OF_STATUS.get(status)
    if known is not None:
        return known
    return "api_error" if status >= 500 else "invalid_request_error"


def error_body(
    status: int,
    message: str,
    code: str | None = None,
    param: str | None = None,
    form: ErrorForm = ErrorForm.OPENAI,
) -> bytes:
    """Return the JSON body of an error response. Anthropic's form has neither code nor param."""
    if form is ErrorForm.ANTHROPIC:
        return orjson.dumps({"type": "error", "error": {"type": anthropic_type(status), "message": message}})
    return orjson.dumps(
        {"error": {"message": message, "type": error_type(status), "param": param, "code": code}}
    )


def error_event(message: str, code: str, status: int = 500, form: ErrorForm = ErrorForm.OPENAI) -> bytes:
    """Return one server-sent event on which the SDKs raise. It is the last event of a stream, without ``[DONE]``
    after it.

    In the form of Responses it is that API's ``error`` event with an additional ``error`` key, because OpenAI's SDKs
    raise only on that key.
    """
    if form is ErrorForm.OPENAI:
        return b"data: " + error_body(status, message, code) + b"\n\n"
    if form is ErrorForm.ANTHROPIC:
        return b"event: error\ndata: " + error_body(status, message, code, form=form) + b"\n\n"
    error = {"message": message, "type": error_type(status), "param": None, "code": code}
    event = {"type": "error", "code": code, "message": message, "param": None, "error": error}
    return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"


def id_headers(form: ErrorForm) -> tuple[bytes, ...]:
    """Return the response headers with the request's id: Anthropic's SDKs read ``request-id``."""
    return _ANTHROPIC_ID_HEADERS if form is ErrorForm.ANTHROPIC else _ID_HEADERS


def has_form(parsed: Any, form: ErrorForm) -> bool:
    """Return whether a parsed error body already has the form of the API."""
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return False
    if form is ErrorForm.ANTHROPIC:
        return parsed.get("type") == "error" and error.get("type") in _ANTHROPIC_TYPES
    return bool(parsed.get("type") != "error")


def translated_error(status: int, body: bytes, form: ErrorForm = ErrorForm.OPENAI) -> bytes:
    """Return the engine's error ``body`` in the API's form, unchanged if it already has that form.

    Understands FastAPI's ``detail`` (a text, or a list of field errors), ``{"message": ...}`` (older vLLM),
    ``{"error": "text"}`` and plain text. ``code`` is the status, as in vLLM's own errors.
    """
    try:
        parsed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    if has_form(parsed, form):
        return body
    param: str | None = None
    message = ""
    if isinstance(parsed, dict):
        message, param = _message_of(parsed)
    elif parsed is None:
        message = body.decode("utf-8", "replace").strip()
        if message[:1] == "<":  # A proxy's HTML page has no meaning for an API client.
            message = ""
    if not message:
        message = f"the backend answered {status}"
    return error_body(status, message[:_MAX_MESSAGE_CHARS], str(status), param, form)


def _message_of(parsed: dict[str, Any]) -> tuple[str, str | None]:
    for key in ("message", "error", "detail"):
        value = parsed.get(key)
        if isinstance(value, str):
            return value, None
        if isinstance(value, dict) and isinstance(value.get("message"), str):
            return value["message"], None
        if isinstance(value, list) and value and isinstance(value[0], dict):
            place = value[0].get("loc")
            names = [str(part) for part in place if part != "body"] if isinstance(place, list) else []
            return str(value[0].get("msg", "")), ".".join(names) or None
    return "", None
