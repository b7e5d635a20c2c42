"""Envoy's own answers in OpenAI's error format, from a table of rows. Knows no filter and no route."""

import math
from collections.abc import Mapping
from typing import Any

from edge_gateway.settings import ClientLimits, Limits


def local_replies(rows: list[dict[str, Any]], limits: Limits) -> dict[str, Any]:
    """Return Envoy's local_reply_config for the rows of ``local_replies.yaml``; the first match wins."""
    mappers: list[dict[str, Any]] = []
    for row in rows:
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


def _refill_seconds(limits: ClientLimits) -> str:
    return str(math.ceil(1 / limits.requests_per_second))


def _mapper(row: Mapping[str, Any]) -> dict[str, Any]:
    # An id of its own for what never became a request; a request's id replaces it.
    headers = [_header("x-request-id", "%UNIQUE_ID%", "ADD_IF_ABSENT")]
    headers += [_header(key, value) for key, value in row.get("headers", {}).items()]
    body: dict[str, Any]
    if row.get("own"):
        body = {
            "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
            "content_type": "application/json",
        }
    else:
        error = {"message": row["message"], "type": row["type"], "param": None, "code": row["code"]}
        body = {"json_format": {"error": error}}
    body["content_type"] = "application/json"
    return {"filter": _mapper_filter(row), "headers_to_add": headers, "body_format_override": body}


def _mapper_filter(row: Mapping[str, Any]) -> dict[str, Any]:
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


def _header(key: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": action}
