"""Conditions on features that every record has: numbers, names, flags."""

from collections.abc import Callable, Sequence
from fnmatch import translate
from typing import Any

import re2

from router_service.routing.conditions.registry import Test, register, texts, true_or_false, whole_number


@register(
    "model", value="text or list", example="model: [llama-*, mistral-7b]",
    meaning="the requested model is one of these names or matches one of these globs",
)  # fmt: skip
def _model(value: Any) -> Test:
    matches = name_matcher(texts(value))
    return lambda f: matches(f.model)


@register(
    "max_tokens_gte", value="number", example="max_tokens_gte: 800",
    meaning="the requested limit of output tokens is at least this number; a request without a limit never matches",
)  # fmt: skip
def _max_tokens_gte(value: Any) -> Test:
    least = whole_number(value)
    return lambda f: f.max_tokens is not None and f.max_tokens >= least


@register(
    "max_tokens_lte", value="number", example="max_tokens_lte: 64",
    meaning="the requested limit of output tokens is at most this number; a request without a limit never matches",
)  # fmt: skip
def _max_tokens_lte(value: Any) -> Test:
    most = whole_number(value)
    return lambda f: f.max_tokens is not None and f.max_tokens <= most


@register(
    "prompt_chars_gte", value="number", example="prompt_chars_gte: 3000",
    meaning="all text that the engine tokenizes, tools, tool calls and results included, has at least this many code "
    "points (four per token id)",
)  # fmt: skip
def _prompt_chars_gte(value: Any) -> Test:
    least = whole_number(value)
    return lambda f: f.prompt_chars >= least


@register(
    "prompt_chars_lte", value="number", example="prompt_chars_lte: 200",
    meaning="that text has at most this many code points",
)  # fmt: skip
def _prompt_chars_lte(value: Any) -> Test:
    most = whole_number(value)
    return lambda f: f.prompt_chars <= most


@register(
    "messages_gte", value="number", example="messages_gte: 6",
    meaning="the conversation has at least this many messages",
)  # fmt: skip
def _messages_gte(value: Any) -> Test:
    least = whole_number(value)
    return lambda f: f.messages >= least


@register(
    "stream",
    value="true or false",
    example="stream: true",
    meaning="the client requests a stream, or does not",
)
def _stream(value: Any) -> Test:
    wanted = true_or_false(value)
    return lambda f: f.stream is wanted


@register(
    "path", value="text or list", example="path: [/v1/embeddings, /v1/rerank]",
    meaning="the request's path is one of these",
)  # fmt: skip
def _path(value: Any) -> Test:
    paths = frozenset(texts(value))
    return lambda f: f.path in paths


@register(
    "client_id", value="text or list", example="client_id: [nightly-*]",
    meaning="the authenticated client is one of these names or matches one of these globs",
)  # fmt: skip
def _client_id(value: Any) -> Test:
    matches = name_matcher(texts(value))
    return lambda f: matches(f.client_id)


@register(
    "has_tools",
    value="true or false",
    example="has_tools: true",
    meaning="the request offers tools, or does not",
)
def _has_tools(value: Any) -> Test:
    wanted = true_or_false(value)
    return lambda f: f.has_tools is wanted


@register(
    "has_images",
    value="true or false",
    example="has_images: true",
    meaning="a message has an image, or none has",
)
def _has_images(value: Any) -> Test:
    wanted = true_or_false(value)
    return lambda f: f.has_images is wanted


def name_matcher(names: Sequence[str]) -> Callable[[str], bool]:
    """Return a test whether a text is one of ``names`` or matches one of the globs (``*``, ``?``, ``[...]``) in it.

    Plain names are a set, because a call into RE2 costs more than the rest of a rule.
    """
    exact = frozenset(name for name in names if not is_glob(name))
    globs = [name for name in names if is_glob(name)]
    if not globs:
        return exact.__contains__
    if len(globs) == 1 and globs[0].endswith("*") and not is_glob(globs[0][:-1]):
        beginning = globs[0][:-1]
        return lambda text: text.startswith(beginning) or text in exact
    # fnmatch writes (?s:...)\Z; RE2 spells the end \z, and fullmatch needs neither.
    pattern = re2.compile("|".join(translate(glob).removesuffix(r"\Z").removesuffix(r"\z") for glob in globs))
    return lambda text: text in exact or pattern.fullmatch(text) is not None


def is_glob(name: str) -> bool:
    """Return whether a name stands for several."""
    return any(sign in name for sign in "*?[")
