"""The client paths, with the end of their streams and the form of their errors. Must not know handlers."""

from dataclasses import dataclass, field

from router_service.openai_api.errors import ErrorForm


@dataclass(frozen=True, slots=True)
class InferencePath:
    """One path that is forwarded to a backend.

    ``operation`` is the name in the GenAI semantic conventions. A stream is complete only if its last event contains
    one of ``terminals``. ``usage_option``: clients request the usage event with ``stream_options.include_usage`` and
    must not receive it otherwise. ``salted``: the engine reads ``cache_salt``. ``engine_path`` is the engine's path
    if it differs. ``target`` is the request target for the engine, without a query: engines read no query on these paths.
    ``stores``: the engine may keep the response for later requests. ``form``: the body is a form (`openai_api.form`)
    instead of JSON. ``output_limit`` is the JSON field that limits the completion, "" if the router never writes one.
    ``has_default_limit``: without that field the engine has a small limit of its own.
    """

    path: str
    operation: str
    terminals: tuple[bytes, ...] = ()
    usage_option: bool = False
    resumable: bool = False
    error_form: ErrorForm = ErrorForm.OPENAI
    salted: bool = True
    engine_path: str = ""
    stores: bool = False
    form: bool = False
    output_limit: str = ""
    has_default_limit: bool = False
    target: bytes = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", (self.engine_path or self.path).encode())


_DONE = (b"data: [DONE]", b"data:[DONE]")
_RESPONSE_ENDS = tuple(
    form % end
    for form in (b"event: response.%b", b'"type":"response.%b"')
    for end in (b"completed", b"incomplete", b"failed")
)

INFERENCE_PATHS: dict[str, InferencePath] = {
    entry.path: entry
    for entry in (
        InferencePath(
            "/v1/chat/completions",
            "chat",
            _DONE,
            usage_option=True,
            resumable=True,
            output_limit="max_tokens",
        ),
        InferencePath(
            "/v1/completions",
            "text_completion",
            _DONE,
            usage_option=True,
            resumable=True,
            output_limit="max_tokens",
            has_default_limit=True,
        ),
        InferencePath("/v1/embeddings", "embeddings"),
        InferencePath(
            "/v1/responses",
            "responses",
            _RESPONSE_ENDS,
            error_form=ErrorForm.RESPONSES,
            stores=True,
            output_limit="max_output_tokens",
        ),
        InferencePath(
            "/v1/messages",
            "chat",
            (b"event: message_stop", b'"type":"message_stop"'),
            error_form=ErrorForm.ANTHROPIC,
        ),
        InferencePath(
            "/v1/messages/count_tokens", "count_tokens", error_form=ErrorForm.ANTHROPIC, salted=False
        ),
        *(InferencePath(path, "rerank") for path in ("/v1/rerank", "/rerank", "/v2/rerank")),
        *(InferencePath(path, "score") for path in ("/v1/score", "/score")),
        *(InferencePath(path, "classify", engine_path="/classify") for path in ("/v1/classify", "/classify")),
        InferencePath("/pooling", "pooling"),
        InferencePath("/tokenize", "tokenize", salted=False),
        InferencePath("/detokenize", "detokenize", salted=False),
        *(
            InferencePath(
                f"/v1/audio/{operation}s", operation, _DONE, usage_option=True, salted=False, form=True
            )
            for operation in ("transcription", "translation")
        ),
    )
}
"""Every POST path with a body that reaches a backend, as vLLM 0.32 serves them. /v1/classify is an alias of this
platform. The edge's `envoy/paths.yaml` lists the same paths.
"""

RETRIEVE = InferencePath(
    "/v1/responses/{id}", "retrieve_response", _RESPONSE_ENDS, error_form=ErrorForm.RESPONSES, salted=False
)
CANCEL = InferencePath(
    "/v1/responses/{id}/cancel", "cancel_response", error_form=ErrorForm.RESPONSES, salted=False
)
"""Requests about a stored response. They have no body and go to the backend that has the response."""
