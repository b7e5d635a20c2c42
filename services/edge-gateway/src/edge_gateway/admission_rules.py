"""Converts the table of paths to the data of the admission script. Must not know Envoy's configuration."""

import json
from collections.abc import Mapping
from typing import Any

from edge_gateway.settings import Bounds, Budgets

_SAID = {
    "string": "a string",
    "array": "an array",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "file": "a file",
}


def lua_prelude(paths: list[dict[str, Any]], bounds: Bounds, budgets: Budgets | None) -> str:
    """Return Lua source that defines the admission scripts' data: RULES, QUERIES, HELD, MEDIA_HOSTS, BUDGETS."""
    rules = {entry["path"]: _rule(entry["body"], bounds.max_body_bytes) for entry in paths if "body" in entry}
    queries = {
        entry.get("name") or entry["path"]: dict.fromkeys(entry["query"], True)
        for entry in paths
        if "query" in entry
    }
    held = {
        "max_client_bytes": bounds.max_client_body_bytes,
        "max_body_bytes": max([bounds.max_body_bytes, *(rule["max_bytes"] for rule in rules.values())]),
    }
    hosts = dict.fromkeys(bounds.media_hosts, True) or None
    figures = None
    if budgets:
        figures = {
            "prompt_bytes_per_token": budgets.prompt_bytes_per_token,
            "assumed_max_tokens": budgets.assumed_max_tokens,
        }
    tables = {"RULES": rules, "QUERIES": queries, "HELD": held, "MEDIA_HOSTS": hosts, "BUDGETS": figures}
    return "".join(f"local {name} = {_lua(value)}\n" for name, value in tables.items())


def _rule(body: Mapping[str, Any], max_body_bytes: int) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "max_bytes": body.get("max_bytes", max_body_bytes),
        "fields": [_field(name, field) for name, field in body["fields"].items()],
        "wanted": dict.fromkeys(body["fields"], True),
    }
    for key in ("any_of", "output_tokens", "form"):
        if key in body:
            rule[key] = body[key]
    return rule


def _field(name: str, field: Mapping[str, Any]) -> dict[str, Any]:
    types = dict.fromkeys(field["type"], True)
    if "number" in types:
        types["integer"] = True
    rest = {key: value for key, value in field.items() if key != "type"}
    said = " or ".join(_SAID[kind] for kind in field["type"])
    return {"name": name, "types": types, "types_said": said, **rest}


def _lua(value: Any) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"[{json.dumps(key)}] = {_lua(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "{ " + ", ".join(_lua(item) for item in value) + " }"
    return json.dumps(value)
