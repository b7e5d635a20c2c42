"""Bodies of requests that are decided and never sent: only their size matters."""

from typing import Any

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")
MOST_CHARS = 200_000


def size_body(model: str, max_tokens: str, prompt_chars: str) -> dict[str, Any]:
    """Return a body with a prompt of ``prompt_chars`` characters, in every API's field; bad numbers are ignored."""
    text = "a" * min(int(prompt_chars) if prompt_chars.isdigit() else 0, MOST_CHARS)
    body: dict[str, Any] = {"model": model, "prompt": text, "input": text}
    body["messages"] = [{"role": "user", "content": text}]
    if max_tokens.isdigit():
        body["max_tokens"] = int(max_tokens)
    return body
