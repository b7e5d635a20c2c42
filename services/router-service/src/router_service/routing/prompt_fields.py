"""The body fields with the prompt, by path: exactly those that vLLM 0.32's request models read.

Sources in vLLM: ``entrypoints/openai/*/protocol.py``, ``entrypoints/anthropic/serving.py``,
``entrypoints/openai/responses/utils.py``, ``entrypoints/pooling/*/protocol.py``,
``entrypoints/speech_to_text/*/protocol.py`` and ``renderers/chat_utils.py``. A field that the engine ignores at a
path does not count there, so that a decoy cannot change the routing. Values of unexpected types count as absent: the
edge and the engine refuse them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from router_service.routing.prompt_reader import PromptReader

Body = Mapping[str, Any]

_TEXT_OF_KIND = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "tool_reference": "name",
}
_IMAGE_KINDS = frozenset({"image", "image_url", "input_image", "image_embeds", "image_pil"})
_TEMPLATE_FIELDS = frozenset({"tools", "documents", "chat_template", "chat_template_kwargs"})
_IMAGE_KEYS = ("image_url", "image_embeds", "image_pil")
_OTHER_MEDIA_KEYS = ("audio_embeds", "video_embeds", "prompt_embeds", "audio_url", "input_audio", "video_url")


def read_prompt(path: str, body: Body, reader: PromptReader) -> None:
    """Pass every text of ``body`` that the engine tokenizes at ``path`` to ``reader``, in the prompt's order.

    Raises:
        Excessive: too many items, or nested too deeply.
    """
    read = _READERS.get(path)
    if read is not None:
        read(body, reader)


def token_limit(path: str, body: Body) -> int | None:
    """Return the requested limit of output tokens at ``path``, the largest if two fields set one."""
    limit: int | None = None
    for name in _LIMITS.get(path, ()):
        value = body.get(name)
        if type(value) is int and (limit is None or value > limit):
            limit = value
    return limit


def message_count(path: str, body: Body) -> int:
    """Return the number of messages in the conversation; 0 if the path has none."""
    value = body.get("input" if path == "/v1/responses" else "messages")
    return len(value) if isinstance(value, list) else 0


def offers_tools(path: str, body: Body) -> bool:
    """Return whether the body offers tools at a path that supports them."""
    return path in _TAKE_TOOLS and bool(body.get("tools"))


# -- one message ------------------------------------------------------------------------------------


def _role(message: Body) -> str:
    role = message.get("role")
    return role if type(role) is str else ""


def _content(value: Any, role: str, reader: PromptReader) -> None:
    """Read the text, or the list of parts, of one message in OpenAI's form."""
    if type(value) is str:
        reader.text(value, role)
        return
    for part in reader.items(value):
        if isinstance(part, str):
            reader.text(part, role)
        elif isinstance(part, dict):
            _part(part, role, reader)


def _part(part: Body, role: str, reader: PromptReader) -> None:
    """Read a part by its type; without a type (or with a uuid) by its content, as vLLM does."""
    kind = part.get("type")
    named = part.get("uuid") is not None
    if kind == "text" and not named:
        reader.text(part.get("text"), role)
        return
    if not isinstance(kind, str) or named:
        if any(key in part for key in _IMAGE_KEYS):
            reader.images = True
            return
        if any(key in part for key in _OTHER_MEDIA_KEYS):
            return
        kind = kind if isinstance(kind, str) else "text"
    if kind in _IMAGE_KINDS:
        reader.images = True
    elif kind in _TEXT_OF_KIND:
        reader.text(part.get(_TEXT_OF_KIND[kind]), role)


def _chat_message(message: Any, reader: PromptReader) -> None:
    if not isinstance(message, dict):
        return
    role = message.get("role")
    if type(role) is not str:
        role = ""
    content = message.get("content")
    if len(message) == 2 and type(content) is str:  # The usual form of a message.
        reader.text(content, role)
        return
    reasoning = message.get("reasoning")
    reader.text(reasoning if reasoning is not None else message.get("reasoning_content"), role)
    _content(content, role, reader)
    for call in reader.items(message.get("tool_calls")):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            reader.text(function.get("name"), role)
            reader.json(function.get("arguments"), role)
    if role == "developer":
        reader.json(message.get("tools"), role)


def _chat_messages(value: Any, reader: PromptReader) -> None:
    """Read the messages of one conversation, or of a list of conversations."""
    for message in reader.items(value):
        if isinstance(message, list):
            for inner in reader.items(message):
                _chat_message(inner, reader)
        else:
            _chat_message(message, reader)


def _template(body: Body, reader: PromptReader) -> None:
    """Read the inputs of a chat template other than messages."""
    if _TEMPLATE_FIELDS.isdisjoint(body):
        return
    for key in ("tools", "documents", "chat_template", "chat_template_kwargs"):
        reader.structure(body.get(key))


# -- one path ---------------------------------------------------------------------------------------


def _chat(body: Body, reader: PromptReader) -> None:
    _template(body, reader)
    _chat_messages(body.get("messages"), reader)


def _completion(body: Body, reader: PromptReader) -> None:
    reader.prompts(body.get("prompt"))


def _responses(body: Body, reader: PromptReader) -> None:
    reader.structure(body.get("tools"))
    reader.structure(body.get("chat_template_kwargs"))
    reader.text(body.get("instructions"), "system")
    reader.json(body.get("previous_input_messages"), "")
    value = body.get("input")
    if isinstance(value, str):
        reader.text(value, "user")
        return
    for item in reader.items(value):
        if isinstance(item, dict):
            _response_item(item, reader)


def _response_item(item: Body, reader: PromptReader) -> None:
    kind = item.get("type")
    if kind in ("function_call", "custom_tool_call"):
        reader.text(item.get("name"), "assistant")
        reader.json(item.get("arguments" if kind == "function_call" else "input"), "assistant")
    elif kind in ("function_call_output", "custom_tool_call_output"):
        _content(item.get("output"), "tool", reader)
    elif kind == "reasoning":
        parts = item.get("content") or item.get("summary")
        for part in reader.items(parts):
            reader.text(part.get("text") if isinstance(part, dict) else None, "assistant")
    else:  # A message, in the form of this API or of chat completions.
        _chat_message(item, reader)


def _messages(body: Body, reader: PromptReader) -> None:
    reader.structure(body.get("tools"))
    reader.structure(body.get("chat_template_kwargs"))
    _blocks(body.get("system"), "system", reader)
    for message in reader.items(body.get("messages")):
        if isinstance(message, dict):
            _blocks(message.get("content"), _role(message), reader)


def _blocks(value: Any, role: str, reader: PromptReader) -> None:
    """Read the text, or the list of blocks, of one message in Anthropic's form."""
    if isinstance(value, str):
        reader.text(value, role)
        return
    for block in reader.items(value):
        if not isinstance(block, dict):
            continue
        kind = block.get("type")
        if kind == "text":
            reader.text(block.get("text"), role)
        elif kind == "thinking":
            reader.text(block.get("thinking"), role)
        elif kind == "tool_use":
            reader.text(block.get("name"), role)
            reader.json(block.get("input"), role)
        elif kind == "tool_result":
            # The engine turns a result into a separate message with the role tool.
            _result(block.get("content"), reader)
        elif kind == "image":
            reader.images = True
        elif kind == "tool_addition":
            reader.json(block.get("tool"), role)


def _result(value: Any, reader: PromptReader) -> None:
    if isinstance(value, str):
        reader.text(value, "tool")
        return
    for item in reader.items(value):
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text":
            reader.text(item.get("text"), "tool")
        elif kind == "image":
            reader.images = True
        elif kind == "tool_reference":
            reader.text(item.get("tool_name") or item.get("name"), "tool")


def _pooling(body: Body, reader: PromptReader) -> None:
    """Read embeddings, classification and pooling requests: an input of prompts or messages, or messages."""
    _template(body, reader)
    value = body.get("input")
    first = value[0] if isinstance(value, list) and value else None
    inner = first[0] if isinstance(first, list) and first else first
    if isinstance(inner, dict):
        _chat_messages(value, reader)
    else:
        reader.prompts(value)
    _chat_messages(body.get("messages"), reader)
    reader.structure(body.get("data"))


def _score(body: Body, reader: PromptReader) -> None:
    reader.structure(body.get("instruction"))
    reader.structure(body.get("chat_template_kwargs"))
    _pairs(
        [body[key] for key in ("queries", "data_1", "text_1") if body.get(key)],
        [body[key] for key in ("documents", "items", "data_2", "text_2") if body.get(key)],
        reader,
    )


def _rerank(body: Body, reader: PromptReader) -> None:
    reader.structure(body.get("instruction"))
    reader.structure(body.get("chat_template_kwargs"))
    _pairs([body.get("query")], [body.get("documents")], reader)


def _pairs(queries: list[Any], documents: list[Any], reader: PromptReader) -> None:
    """Read pairs of texts. A single query is tokenized once per document. Every alternative name of a field counts."""
    before = reader.chars
    many = sum(_scored(query, reader) for query in queries)
    asked = reader.chars - before
    count = sum(_scored(document, reader) for document in documents)
    if many == 1 and count > 1:
        reader.chars += asked * (count - 1)


def _scored(value: Any, reader: PromptReader) -> int:
    """Read one text or ``{"content": parts}``, or a list of them; return how many."""
    if isinstance(value, list):
        for item in reader.items(value):
            _content(item.get("content") if isinstance(item, dict) else item, "user", reader)
        return len(value)
    _content(value.get("content") if isinstance(value, dict) else value, "user", reader)
    return 1 if value else 0


def _tokenize(body: Body, reader: PromptReader) -> None:
    _template(body, reader)
    reader.text(body.get("prompt"), "user")
    _chat_messages(body.get("messages"), reader)


def _detokenize(body: Body, reader: PromptReader) -> None:
    reader.prompts(body.get("tokens"))


def _audio(body: Body, reader: PromptReader) -> None:
    """Read the texts of a transcription or translation; the audio itself has no characters."""
    reader.text(body.get("prompt"), "")
    reader.text(body.get("hotwords"), "")


_READERS: dict[str, Callable[[Body, PromptReader], None]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
    "/v1/messages/count_tokens": _messages,
    "/v1/embeddings": _pooling,
    "/v1/classify": _pooling,
    "/classify": _pooling,
    "/pooling": _pooling,
    "/v1/score": _score,
    "/score": _score,
    "/v1/rerank": _rerank,
    "/rerank": _rerank,
    "/v2/rerank": _rerank,
    "/v1/audio/transcriptions": _audio,
    "/v1/audio/translations": _audio,
    "/tokenize": _tokenize,
    "/detokenize": _detokenize,
}

_LIMITS: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
    "/v1/audio/transcriptions": ("max_completion_tokens",),
    "/v1/audio/translations": ("max_completion_tokens",),
}

_TAKE_TOOLS = frozenset(
    {"/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/tokenize"}
)
