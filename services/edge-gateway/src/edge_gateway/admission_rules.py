"""Turns the table of paths into the data the admission script reads. Knows no Envoy configuration."""

import json
from collections.abc import Mapping
from typing import Any

from edge_gateway.settings import Budgets

_SAID = {
    "string": "a string",
    "array": "an array",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
}


def lua_prelude(paths: list[dict[str, Any]], max_body_bytes: int, budgets: Budgets | None) -> str:
    """Return Lua source that defines RULES and BUDGETS for the admission script."""
    rules = {entry["path"]: _rule(entry["body"], max_body_bytes) for entry in paths if "body" in entry}
    figures = None
    if budgets:
        figures = {
            "prompt_bytes_per_token": budgets.prompt_bytes_per_token,
            "assumed_max_tokens": budgets.assumed_max_tokens,
        }
    return f"local RULES = {_lua(rules)}\nlocal BUDGETS = {_lua(figures)}\n"


def _rule(body: Mapping[str, Any], max_body_bytes: int) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "max_bytes": body.get("max_bytes", max_body_bytes),
        "fields": [_field(name, field) for name, field in body["fields"].items()],
        "wanted": dict.fromkeys(body["fields"], True),
    }
    for key in ("any_of", "output_tokens"):
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
