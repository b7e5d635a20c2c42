"""OpenAI's error body, and the translation of an engine's other shapes; chooses no status itself."""

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

_MAX_MESSAGE_CHARS = 2000


def error_type(status: int) -> str:
    """OpenAI's ``type`` for a status; ``server_error`` for 5xx, ``invalid_request_error`` for other 4xx."""
    known = _TYPE_OF_STATUS.get(status)
    if known is not None:
        return known
    return "server_error" if status >= 500 else "invalid_request_error"


def error_body(status: int, message: str, code: str | None = None, param: str | None = None) -> bytes:
    """The JSON body of an error answer."""
    return orjson.dumps(
        {"error": {"message": message, "type": error_type(status), "param": param, "code": code}}
    )


def error_event(message: str, code: str, status: int = 500) -> bytes:
    """One server-sent event that makes the SDKs raise; a stream's last, never followed by ``[DONE]``."""
    return b"data: " + error_body(status, message, code) + b"\n\n"


def is_openai_error(body: bytes) -> bool:
    """True when ``body`` already is ``{"error": {"message": …}}``."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str)


def translated_error(status: int, body: bytes) -> bytes:
    """The engine's error ``body`` in OpenAI's shape: unchanged when it has it already.

    Understands FastAPI's ``detail`` (a text, or a list of field errors), ``{"message": …}`` (older
    vLLM), ``{"error": "text"}`` and plain text. ``code`` is the status, as vLLM writes it.
    """
    if is_openai_error(body):
        return body
    try:
        parsed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    param: str | None = None
    message = ""
    if isinstance(parsed, dict):
        message, param = _message_of(parsed)
    elif parsed is None:
        message = body.decode("utf-8", "replace").strip()
        if message[:1] == "<":  # a proxy's HTML page says nothing to an API client
            message = ""
    if not message:
        message = f"the backend answered {status}"
    return orjson.dumps(
        {
            "error": {
                "message": message[:_MAX_MESSAGE_CHARS],
                "type": error_type(status),
                "param": param,
                "code": str(status),
            }
        }
    )


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
