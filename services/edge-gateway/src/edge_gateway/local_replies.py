"""Envoy's local replies in the error format of the path's API, from a table. Must not know filters or routes."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from edge_gateway.client_limits import ClientLimits, Limits
from edge_gateway.yaml_output import SharedMapping

# The paths of Anthropic's API, and its error names by status; api_error for the others.
ANTHROPIC_PATH = "/v1/messages"
ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    426: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _header(key: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": action}


# For replies without a request, such as malformed HTTP; otherwise the request's id replaces it.
_REQUEST_ID = SharedMapping(_header("x-request-id", "%UNIQUE_ID%", "ADD_IF_ABSENT"))
_ANTHROPIC_REQUEST_ID = SharedMapping(_header("request-id", "%REQ(X-REQUEST-ID)%"))
_ANTHROPIC_PATHS = SharedMapping(
    {"header_filter": {"header": {"name": ":path", "string_match": {"prefix": ANTHROPIC_PATH}}}}
)


def local_replies(rows: list[dict[str, Any]], limits: Limits) -> dict[str, Any]:
    """Return Envoy's local_reply_config for the rows of ``local_replies.yaml``; the first match wins."""
    mappers: list[dict[str, Any]] = []
    for row in _for_each_api(rows):
        if row.get("retry_after") != "client_rate":
            mappers.append(_mapper(row))
            continue
        usual = _refill_seconds(limits.default)
        waits = {name: _refill_seconds(client) for name, client in sorted(limits.clients.items())}
        for name, wait in waits.items():
            if wait != usual:
                mapper = _mapper({**row, "headers": {"retry-after": wait}})
                client = {"name": "x-client-id", "string_match": {"exact": name}}
                both = [mapper["filter"], {"header_filter": {"header": client}}]
                mappers.append({**mapper, "filter": {"and_filter": {"filters": both}}})
        mappers.append(_mapper({**row, "headers": {"retry-after": usual}}))
    return {"mappers": mappers}


def _for_each_api(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if not row.get("own"):
            yield {**row, "anthropic": True}
        yield row


def _refill_seconds(limits: ClientLimits) -> str:
    return str(math.ceil(1 / limits.requests_per_second))


def _mapper(row: Mapping[str, Any]) -> dict[str, Any]:
    headers: list[dict[str, Any]] = [_REQUEST_ID]
    if row.get("anthropic"):
        headers.append(_ANTHROPIC_REQUEST_ID)
    headers += [_header(key, value) for key, value in row.get("headers", {}).items()]
    body: dict[str, Any]
    if row.get("own"):
        body = {
            "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
            "content_type": "application/json",
        }
    elif row.get("anthropic"):
        kind = row.get("kind") or ANTHROPIC_KINDS.get(row.get("status", 500), "api_error")
        error = {"type": kind, "message": row["message"]}
        body = {"json_format": {"type": "error", "error": error, "request_id": "%REQ(X-REQUEST-ID)%"}}
    else:
        error = {"message": row["message"], "type": row["type"], "param": None, "code": row["code"]}
        body = {"json_format": {"error": error}}
    body["content_type"] = "application/json"
    return {"filter": _mapper_filter(row), "headers_to_add": headers, "body_format_override": body}


def _mapper_filter(row: Mapping[str, Any]) -> dict[str, Any]:
    filters = [_cause_filter(row)]
    if "flags" in row:
        filters.append({"response_flag_filter": {"flags": row["flags"]}})
    if row.get("anthropic"):
        filters.append(_ANTHROPIC_PATHS)
    return filters[0] if len(filters) == 1 else {"and_filter": {"filters": filters}}


def _cause_filter(row: Mapping[str, Any]) -> dict[str, Any]:
    if "metadata" in row:
        matcher = {
            "filter": row["metadata"]["filter"],
            "path": [{"key": row["metadata"]["key"]}],
            "value": {"bool_match": True},
        }
        return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}
    operation, status = ("EQ", row["status"]) if "status" in row else ("GE", 400)
    return {
        "status_code_filter": {
            "comparison": {"op": operation, "value": {"default_value": status, "runtime_key": "edge.none"}}
        }
    }
