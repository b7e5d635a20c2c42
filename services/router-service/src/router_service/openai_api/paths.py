"""The paths a client may use and what each one's stream ends with; knows no handler."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InferencePath:
    """One path that is forwarded to a backend.

    ``operation`` is the GenAI semantic conventions' name. A stream is complete only when its last
    event contains one of ``terminals``. ``usage_option`` says that clients ask for the usage event
    with ``stream_options.include_usage`` and must not get it otherwise.
    """

    path: str
    operation: str
    terminals: tuple[bytes, ...] = ()
    usage_option: bool = False
    resumable: bool = False


_DONE = (b"data: [DONE]", b"data:[DONE]")

INFERENCE_PATHS: dict[str, InferencePath] = {
    entry.path: entry
    for entry in (
        InferencePath("/v1/chat/completions", "chat", _DONE, usage_option=True, resumable=True),
        InferencePath("/v1/completions", "text_completion", _DONE, usage_option=True, resumable=True),
        InferencePath("/v1/embeddings", "embeddings"),
        InferencePath(
            "/v1/responses",
            "responses",
            tuple(
                form % end
                for form in (b"event: response.%b", b'"type":"response.%b"')
                for end in (b"completed", b"incomplete", b"failed")
            ),
        ),
        InferencePath("/v1/messages", "chat", (b"event: message_stop", b'"type":"message_stop"')),
        InferencePath("/v1/rerank", "rerank"),
        InferencePath("/tokenize", "tokenize"),
    )
}
"""Every POST path that reaches a backend; the edge's allow-list has the same ones."""
