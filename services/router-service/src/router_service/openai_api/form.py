"""Reads and changes the text fields of a form (``multipart/form-data``). Never copies a file of the form.

Stricter than RFC 7578: a form that the edge, the router and the engine could read differently is refused. Nothing may
stand before the first part or after the last, every line ends with CRLF, and a field name occurs once unless it ends
with ``[]``. The edge's `envoy/lua/form_check.lua` has the same rules.
"""

import re
from collections.abc import Mapping
from typing import Any

MAX_PARTS = 64
MAX_PART_HEAD_BYTES = 2048
MAX_TEXT_BYTES = 64 * 1024

_BOUNDARY = re.compile(
    rb"""multipart/form-data\s*;\s*boundary=("?)([0-9A-Za-z'()+_,./:=?-]{1,70})\1\s*""", re.IGNORECASE
)
_HEADER = re.compile(rb"[A-Za-z0-9-]+:[^\r\n]*")
_DISPOSITION = re.compile(rb"content-disposition:[ \t]*form-data", re.IGNORECASE)
_PARAMETER = re.compile(
    rb"""[ \t]*;[ \t]*(?:name="([A-Za-z0-9_.-]{1,64}(?:\[\])?)"|filename(?:="(?:[^"\\]|\\\\)*"|\*=[^;"\\]+))"""
)
_TRUE = frozenset({"true", "1", "on", "t", "y", "yes"})
"""What vLLM's request model reads as true, in any case."""

_NO_NAME = "the head of every part must have one content-disposition: form-data with one name"


class BadForm(Exception):
    """The form cannot be read; the message is for the client."""


class FormFields(dict[str, Any]):
    """The text fields of a form, in the types of the same fields in a JSON body.

    ``spans`` has the start and end of each text in the body. ``files`` has the names of the file fields.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spans: dict[str, tuple[int, int]] = {}
        self.files: set[str] = set()


def read_form(body: bytes, content_type: bytes | None) -> FormFields:
    """Return the fields of a form.

    ``stream`` becomes a boolean, ``max_completion_tokens`` an integer, and ``stream_include_usage`` the
    ``stream_options`` of a JSON body.

    Raises:
        BadForm: not a form, or one that two readers could read differently.
    """
    form = _read_parts(body, _boundary(content_type))
    usage = _true(form.pop("stream_include_usage", ""))
    if "stream" in form:
        form["stream"] = _true(form["stream"])
        form["stream_options"] = {"include_usage": usage}
    limit = form.get("max_completion_tokens")
    if isinstance(limit, str) and limit.isascii() and limit.isdigit() and len(limit) < 10:
        form["max_completion_tokens"] = int(limit)
    return form


def with_form_field(body: bytes, form: Mapping[str, Any], name: str, text: str) -> bytes:
    """Return ``body``, read as ``form``, with another text in the field ``name``, which must be in the form."""
    assert isinstance(form, FormFields)
    start, end = form.spans[name]
    return body[:start] + text.encode() + body[end:]


def _true(text: str) -> bool:
    return text.lower() in _TRUE


def _boundary(content_type: bytes | None) -> bytes:
    found = _BOUNDARY.fullmatch(content_type or b"")
    if found is None:
        raise BadForm("the content-type must be multipart/form-data with a boundary")
    return found.group(2)


def _read_parts(body: bytes, boundary: bytes) -> FormFields:
    form = FormFields()
    line = b"--" + boundary
    if not body.startswith(line + b"\r\n"):
        raise BadForm("the form must begin with its boundary")
    delimiter = b"\r\n" + line
    at = len(line)
    for _ in range(MAX_PARTS):
        end_of_head = body.find(b"\r\n\r\n", at, at + MAX_PART_HEAD_BYTES)
        if end_of_head < 0:
            raise BadForm(f"the head of a part must end within {MAX_PART_HEAD_BYTES} bytes")
        start = end_of_head + 4
        end = body.find(delimiter, start)
        if end < 0:
            raise BadForm("the form must end with its boundary")
        _add_part(form, body, (start, end), body[at + 2 : end_of_head])
        at = end + len(delimiter)
        following = body[at : at + 2]
        if following == b"--":
            if body[at + 2 :] not in (b"", b"\r\n"):
                raise BadForm("nothing may follow the end of the form")
            return form
        if following != b"\r\n":
            raise BadForm("a boundary must stand alone in its line")
    raise BadForm(f"the form may have at most {MAX_PARTS} parts")


def _add_part(form: FormFields, body: bytes, span: tuple[int, int], head: bytes) -> None:
    name, is_file = _read_head(head)
    if name in form.spans and not name.endswith("[]"):
        raise BadForm(f"the field '{name}' occurs twice")
    form.spans[name] = span
    if is_file:
        form.files.add(name)
        return
    if span[1] - span[0] > MAX_TEXT_BYTES:
        raise BadForm(f"the field '{name}' may have at most {MAX_TEXT_BYTES} bytes")
    try:
        form[name] = body[span[0] : span[1]].decode()
    except UnicodeDecodeError:
        raise BadForm(f"the field '{name}' must be UTF-8") from None


def _read_head(head: bytes) -> tuple[str, bool]:
    """Return the name of a part and whether it is a file."""
    lines = head.split(b"\r\n")
    begun = [match for line in lines if (match := _DISPOSITION.match(line)) is not None]
    if len(begun) != 1 or not all(map(_HEADER.fullmatch, lines)):
        raise BadForm(_NO_NAME)
    line, at = begun[0].string.rstrip(b" \t"), begun[0].end()
    names = []
    is_file = False
    while at < len(line):
        parameter = _PARAMETER.match(line, at)
        if parameter is None:
            raise BadForm(_NO_NAME)
        if parameter.group(1) is None:
            is_file = True
        else:
            names.append(parameter.group(1).decode("ascii"))
        at = parameter.end()
    if len(names) != 1:
        raise BadForm(_NO_NAME)
    return names[0], is_file
