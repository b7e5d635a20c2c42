"""JSON Schemas of chart values that a program reads as its own configuration, from that program's models.

Owns the list of these values. Bounds, types and descriptions come from the models.
"""

from typing import Any

from edge_gateway.client_limits import ClientLimits, Limits, TeamLimits
from edge_gateway.settings import Settings
from router_service.config.model import Configuration
from router_service.config.rules_model import RulesFile
from router_service.routing.conditions import kinds
from router_service.routing.vocabulary import Reason

Schema = dict[str, Any]
# Written by the chart, or set by other values.
OF_THE_CHART = ("redis",)
# Settings of the edge by model. Left out are those that the chart writes or other values set, and those that only the
# route table or the rate limit service reads.
NOT_OF_THE_EDGE_CHART: dict[str, tuple[str, ...]] = {
    "": ("listen", "admin", "telemetry", "tls", "limits", "cors"),
    "Auth": ("keys_file",),
    "Budgets": (
        "host", "metrics_port", "redis_url", "reservation_seconds", "unavailable_share", "when_unavailable",
    ),
    "Timeouts": ("short_request_seconds",),
    "Bounds": ("max_heap_bytes",),
}  # fmt: skip
_TEXT: Schema = {"type": "string", "minLength": 1}
_SHAPES: dict[str, Schema] = {
    "text": _TEXT,
    "text or list": {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": _TEXT}]},
    "number": {"type": "integer", "minimum": 0},
    "true or false": {"type": "boolean"},
    "mapping of name to text": {
        "type": "object", "minProperties": 1, "additionalProperties": {"type": "string"},
    },
}  # fmt: skip


def values_of(chart: str) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Return the generated properties of the chart's values, and the definitions they refer to."""
    if chart == "router-service":
        return _router()
    if chart == "edge-gateway":
        return _edge()
    if chart == "rate-limit-service":
        return {"limits": _limits()}, {}
    return {}, {}


def _router() -> tuple[dict[str, Schema], dict[str, Schema]]:
    config, rules = Configuration.model_json_schema(), RulesFile.model_json_schema()
    definitions = {**config.pop("$defs"), **rules.pop("$defs"), "When": _when()}
    definitions["RuleSection"]["properties"]["when"] = {"$ref": "#/$defs/When"}
    expectation = definitions["Expectation"]
    expectation["minProperties"] = 1
    expectation["properties"]["reason"] = {"enum": [*map(str, Reason), None]}
    config["properties"] = {
        name: below for name, below in config["properties"].items() if name not in OF_THE_CHART
    }
    del definitions["Redis"]
    # A template refuses missing pools with a remedy, and `helm lint` accepts the chart's defaults.
    del config["properties"]["pools"]["minProperties"], definitions["Routing"]["required"]
    plain: dict[str, Schema] = {"config": config, "rules": rules}
    return {name: _tidy(below) for name, below in plain.items()}, {
        name: _tidy(below) for name, below in sorted(definitions.items())
    }


def _edge() -> tuple[dict[str, Schema], dict[str, Schema]]:
    settings = Settings.model_json_schema()
    definitions = settings.pop("$defs")
    for model, names in NOT_OF_THE_EDGE_CHART.items():
        for name in names:
            del (definitions[model] if model else settings)["properties"][name]
    del settings["title"]
    settings["description"] = "settings of the edge over the chart's (docs/edge-settings.md)"
    plain = {"settings": _tidy(settings)}
    return plain, {name: _tidy(definitions[name]) for name in sorted(_used(settings, definitions))}


def _used(schema: Any, definitions: dict[str, Schema]) -> set[str]:
    """Return the names of the definitions that a schema refers to, directly or through others."""
    if isinstance(schema, list):
        return set().union(*(_used(one, definitions) for one in schema))
    if not isinstance(schema, dict):
        return set()
    found = _used(list(schema.values()), definitions)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found |= {name} | _used(definitions[name], definitions)
    return found


def _when() -> Schema:
    """Return the schema of a rule's conditions: every registered kind, and all, any and not."""
    itself: Schema = {"$ref": "#/$defs/When"}
    joined: Schema = {
        "anyOf": [{**itself, "minProperties": 1}, {"type": "array", "minItems": 1, "items": itself}]
    }
    shapes = {name: {**_SHAPES[kind.value], "description": kind.meaning} for name, kind in kinds().items()}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {**shapes, **dict.fromkeys(("all", "any", "not"), joined)},
    }


def _limits() -> Schema:
    tokens = ("tokens_per_minute", "tokens_per_day", "tokens_per_month")
    shared = ("requests_per_minute", *tokens)
    one = ClientLimits.model_json_schema()
    one["properties"] = {name: one["properties"][name] for name in shared}
    clients = Limits.model_json_schema()["properties"]["clients"]
    clients["patternProperties"] = dict.fromkeys(clients["patternProperties"], one)
    team = TeamLimits.model_json_schema()
    teams = Limits.model_json_schema()["properties"]["teams"]
    teams["patternProperties"] = dict.fromkeys(teams["patternProperties"], team)
    properties = {"default": one, "clients": clients, "teams": teams}
    limits: Schema = _tidy({"type": "object", "additionalProperties": False, "properties": properties})
    return limits


def _tidy(schema: Any) -> Any:
    """Reject names that match no pattern, because pydantic's schema accepts them."""
    if isinstance(schema, list):
        return [_tidy(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _tidy(below) for key, below in schema.items()}
    return plain | {"additionalProperties": False} if "patternProperties" in plain else plain
