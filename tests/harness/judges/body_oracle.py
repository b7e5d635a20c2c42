"""An independent check of request bodies in Python: the result that the edge must return."""

import json
import math
import re
from typing import Any

import yaml

from edge_gateway.render import source_directory

PATHS = yaml.safe_load((source_directory() / "paths.yaml").read_text())["paths"]
FIELDS: dict[str, dict[str, Any]] = {entry["path"]: entry["body"] for entry in PATHS if "body" in entry}
MAX_DEPTH = 64
MAX_NUMBER = 64


class Refused(Exception):
    """The edge must refuse the body."""


def judge(path: str, body: bytes) -> str | None:
    """Return None for a valid body, else the name of the invalid field ("" if no field is invalid).

    Malformed JSON gives "" in every field: the edge may name the field or not.
    """
    try:
        value = strict_json(body)
    except (Refused, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    for name, rule in FIELDS[path]["fields"].items():
        fault = _field_fault(name, rule, value)
        if fault is not None:
            return fault
    options = FIELDS[path].get("any_of")
    if options and not any(option in value for option in options):
        return str(options[0])
    return None


def strict_json(body: bytes) -> Any:
    """Parse strict JSON: no doubled key, no lone surrogate, no NaN, bounded depth and numbers.

    Raises:
        Refused: the body breaks one of these rules.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no, parse_int=_integer, parse_float=_float
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise Refused(str(error)) from None
    if text.startswith("\ufeff"):
        raise Refused("byte order mark")
    _look(value, 1)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise Refused("doubled key")
    for key, _ in pairs:
        _text(key)
    return dict(pairs)


def _no(constant: str) -> Any:
    raise Refused(constant)


def _integer(text: str) -> int:
    if len(text) > MAX_NUMBER:
        raise Refused("long number")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if len(text) > MAX_NUMBER or math.isinf(value) or re.search(r"[eE][+-]?\d{5,}$", text):
        raise Refused("number out of range")
    return value


def _text(text: str) -> None:
    if re.search("[\ud800-\udfff]", text):
        raise Refused("lone surrogate")


def _look(value: Any, depth: int) -> None:
    if isinstance(value, str):
        _text(value)
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise Refused("too deep")
        for inner in value.values() if isinstance(value, dict) else value:
            _look(inner, depth + 1)


def kind_of(value: Any) -> str:
    """Return the name that the edge's check gives to the type of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return kinds[type(value)]


def _field_fault(name: str, rule: dict[str, Any], body: dict[str, Any]) -> str | None:
    if name not in body:
        return name if rule.get("required") else None
    value = body[name]
    kind = kind_of(value)
    if kind == "null" and rule.get("nullable"):
        return None
    if kind not in rule["type"] and not (kind == "integer" and "number" in rule["type"]):
        return name
    if kind in ("integer", "number") and not rule.get("minimum", value) <= value <= rule.get(
        "maximum", value
    ):
        return name
    if kind == "string" and not rule.get("min_length", 0) <= len(value.encode()) <= rule.get(
        "max_length", math.inf
    ):
        return name
    if kind == "array":
        if not rule.get("min_items", 0) <= len(value) <= rule.get("max_items", len(value)):
            return name
        if rule.get("items") == "object":
            for index, item in enumerate(value):
                if not isinstance(item, dict):
                    return f"{name}[{index}]"
    return None
