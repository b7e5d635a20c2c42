"""Checks command lines of the AWS CLI against the service models of botocore, without the AWS CLI or AWS."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import botocore.session
import jmespath
from botocore import xform_name

GLOBAL = {"--region", "--query", "--output"}
# Commands of the AWS CLI that are not operations of a service, with their options.
CUSTOM: dict[tuple[str, str], set[str]] = {
    ("s3", "sync"): set(),
    ("ecr", "get-login-password"): set(),
    ("eks", "update-kubeconfig"): {"--name"},
}


def faults(words: Sequence[str]) -> list[str]:
    """Return what is wrong with the arguments of one `aws` command: operation, options, fields of its query."""
    service, operation, *rest = words
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    custom = CUSTOM.get((service, operation))
    if custom is not None:
        return [f"{service} {operation} has no option {one}" for one in sorted(given - GLOBAL - custom)]
    model = _model("s3" if service == "s3api" else service)
    names = {xform_name(name, "-"): name for name in model.operation_names}
    if operation not in names:
        return [f"{service} has no operation {operation}"]
    found = model.operation_model(names[operation])
    members = found.input_shape.members if found.input_shape else {}
    known = GLOBAL | {"--" + xform_name(name, "-") for name in members}
    wrong = [f"{service} {operation} has no option {one}" for one in sorted(given - known)]
    if "--query" in rest:
        query = rest[rest.index("--query") + 1]
        fields = set(_fields(jmespath.compile(query).parsed)) - set(_members(found.output_shape, ()))
        wrong += [f"{service} {operation} returns no {field}" for field in sorted(fields)]
    return wrong


@cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def _fields(node: dict[str, Any]) -> Iterator[str]:
    if node["type"] == "field":
        yield node["value"]
    for child in node["children"]:
        yield from _fields(child)


def _members(shape: Any, above: tuple[str, ...]) -> Iterator[str]:
    if shape is None or shape.name in above:
        return
    inner = list(getattr(shape, "members", {}).items())
    yield from (name for name, _ in inner)
    for child in [one for _, one in inner] + [getattr(shape, "member", None)]:
        yield from _members(child, (*above, shape.name))
