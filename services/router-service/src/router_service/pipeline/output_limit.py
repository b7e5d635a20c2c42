"""The completion limit of a request that has none, if the edge reserved tokens for it. Must not choose backends.

The reservation is an upper bound only if the engine generates no more than it. vLLM refuses a limit above the model's
length and shortens any other limit to the tokens that the prompt leaves.
"""

from collections.abc import Callable, Mapping
from typing import Any

from router_service.openai_api.paths import InferencePath

HEADER = b"x-edge-max-tokens"
"""Completion tokens of one choice that the edge reserved. Only the edge sends it, for a request without a limit."""

_MAX_DIGITS = 9

Card = Callable[[str, str], Mapping[str, Any]]
"""Returns the known fields of a pool's model, by names of both."""


def no_card(_pool: str, _model: str) -> Mapping[str, Any]:
    """Return no field: for pipelines without model cards."""
    return {}


def missing_limit(
    path: InferencePath, body: Mapping[str, Any], reserved: bytes, longest: int | None
) -> dict[str, int]:
    """Return the field with the limit, empty if the body needs none.

    ``reserved`` is the value of `HEADER`, ``longest`` the model's length (None: not known). A model that is not
    longer than the reservation limits itself.
    """
    name = path.output_limit
    if not name or not reserved.isdigit() or len(reserved) > _MAX_DIGITS:
        return {}
    if body.get(name) is not None or body.get("max_completion_tokens") is not None:
        return {}
    if path.has_default_limit and name not in body:
        return {}
    limit = int(reserved)
    return {name: limit} if longest is not None and 0 < limit < longest else {}
