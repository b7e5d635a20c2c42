"""Changes the router makes in a request for the engine, and undoes in its response. Makes no routing
decision.

It replaces an alias that only the router knows by the model's name, sets the salt that separates clients'
prefix-cache entries, limits a completion for which the edge reserved tokens, and sets the engine controls of a rule
and the priority of a class. If none of these applies, every byte passes unchanged.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from router_service.openai_api.body_edit import PieceEditor, with_field
from router_service.openai_api.form import with_form_field
from router_service.openai_api.paths import InferencePath
from router_service.routing.decision import Decision
from router_service.routing.features import Features
from router_service.routing.policy import Policy

ENGINE_CONTROLS = ("priority", "request_id", "kv_transfer_params", "ec_transfer_params", "data_parallel_rank")
"""Fields that control the engine for all clients: only rules set them."""

_CONTROLS = frozenset(ENGINE_CONTROLS)
_NO_LIMIT: Mapping[str, int] = {}


class EngineRequest(NamedTuple):
    """The body for one attempt, the fields that differ from the client's, and the editor of the response."""

    body: bytes
    fields: Mapping[str, Any]
    editor: PieceEditor | None = None


def forbidden_control(body: Mapping[str, Any]) -> str:
    """Return the name of an engine control in a client's body, "" if there is none."""
    if _CONTROLS.isdisjoint(body):
        return ""
    return next((name for name in ENGINE_CONTROLS if body.get(name) is not None), "")


def engine_request(
    raw: bytes,
    body: Mapping[str, Any],
    path: InferencePath,
    features: Features,
    decision: Decision,
    policy: Policy,
    limit: Mapping[str, int] = _NO_LIMIT,
) -> EngineRequest:
    """Return the body for the chosen backend. ``raw`` is the client's body, ``body`` the same parsed.

    ``limit`` is the field that limits the completion, if the client's body needs one. An empty body gets no field. In
    a form only the model is replaced: the engine reads no other of these fields there.
    """
    chosen = decision.chosen
    assert chosen is not None
    fields: dict[str, Any] = {**limit}
    rename = None
    pool = policy.pools.get(chosen.pool)
    if pool is not None and features.model in pool.rewrites:
        real = pool.rewrites[features.model]
        fields["model"] = real
        rename = (orjson.dumps(real), orjson.dumps(features.model))
    client = features.client_id
    if path.salted and client and (salt := policy.privacy.salt_of(client)):
        fields["cache_salt"] = salt
    sets_more = bool(raw) and not path.form
    if sets_more and policy.classes is not None and decision.class_name in policy.classes.priorities:
        fields["priority"] = policy.classes.priorities[decision.class_name]
    if sets_more and decision.rule is not None and decision.rule.engine_fields:
        fields.update(decision.rule.engine_fields)
    hide = bool(client) and not policy.privacy.shows_metrics(client)
    editor = PieceEditor(rename, hide_metrics=hide) if rename is not None or hide else None
    for name, value in fields.items():
        raw = (with_form_field if path.form else with_field)(raw, body, name, value)
        body = {**body, name: value}
    return EngineRequest(raw, fields, editor)
