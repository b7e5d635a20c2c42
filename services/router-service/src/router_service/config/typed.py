"""Validates a parsed file against its model, with file, line, key and value of every mistake."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from platform_contracts.yaml_document import Document, Place

Model = TypeVar("Model", bound=BaseModel)


def typed(document: Document, model: type[Model]) -> Model | None:
    """Return the document as ``model``, or None after recording its mistakes as problems."""
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        document.problem((), f"must be a mapping with the keys {', '.join(model.model_fields)}")
        return None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        for found in error.errors():
            if found["type"] == "string_type" and isinstance(found["input"], list):
                continue  # The other form of a key that takes a text or a list; that form's own mistakes are listed.
            place = _real_place(document, found["loc"])
            document.problem(place, _sentence(found, model))
        return None


def _real_place(document: Document, loc: tuple[str | int, ...]) -> Place:
    """Drop the names of union members and mapping keys, which pydantic adds to its path."""
    place: Place = ()
    data = {} if document.data is None else document.data
    for index, part in enumerate(loc):
        if part == "[key]":  # The key itself is wrong, not its value.
            continue
        last = index == len(loc) - 1
        if isinstance(data, Mapping) and (part in data or last):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        place = (*place, part)
    return place


def _sentence(found: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    shown = json.dumps(value, default=str, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if kind == "extra_forbidden":
        known = _fields_at(model, found["loc"][:-1])
        near = get_close_matches(str(found["loc"][-1]), known, 1)
        return f"is not a known key ({f'did you mean {near[0]}? ' if near else ''}known: {', '.join(known)})"
    if kind == "missing":
        return "is missing and has no default"
    if isinstance(value, str) and "://" in value and "@" in value:
        return "an address must not contain a user or password (the value is not shown)"
    if kind == "string_pattern_mismatch":
        return f"{shown} must match {context['pattern']}"
    if kind == "literal_error":
        return f"{shown} is not one of {context['expected']}"
    said = str(found["msg"]).removeprefix("Input ").removeprefix("Value error, ")
    return f"{shown} {said}" if said.startswith(("should", "must")) else f"{shown}: {said}"


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Return the known keys at the location of an unknown key, by following its path through the model."""
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            fields = current.model_fields
            if part in fields:
                current = fields[str(part)].annotation
                continue
        current = _inner_model(current)
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[str(part)].annotation
    current = _inner_model(current)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return annotation
