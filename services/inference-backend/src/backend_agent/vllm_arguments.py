"""Checks a model file's arguments against the pinned vLLM. The list of arguments is generated from vLLM's
parser.
"""

import difflib
import json
from functools import cache
from importlib import resources

from backend_agent.model_file import BadModelFile, ModelFile

# Set from other fields of the model file or by the chart; a second value would silently override them.
OWNED = {
    "--model": "the path given at start",
    "--served-model-name": "name and aliases",
    "--host": "the start command",
    "--port": "the start command",
    "--dtype": "engine.dtype",
    "--quantization": "engine.quantization",
    "--max-model-len": "engine.max_model_len",
    "--max-num-seqs": "engine.max_num_seqs",
    "--tensor-parallel-size": "needs.gpus",
    "--gpu-memory-utilization": "engine.gpu_memory_utilization",
    "--kv-offloading-size": "engine.kv_offload_gib",
    "--tool-call-parser": "engine.tool_call_parser",
    "--enable-auto-tool-choice": "engine.tool_call_parser",
    "--reasoning-parser": "engine.reasoning_parser",
    "--chat-template": "engine.chat_template",
    "--shutdown-timeout": "the platform",
    "--api-key": "the edge: keys end there",
}


@cache
def known_arguments() -> tuple[str, dict[str, list[str] | None]]:
    """Return vLLM's version, and each flag with its choices (None: any value, or none)."""
    text = resources.files("backend_agent").joinpath("vllm_arguments.json").read_text()
    document = json.loads(text)
    return document["vllm"], document["arguments"]


def check_arguments(model: ModelFile, file: object) -> None:
    """Refuse arguments that the pinned vLLM would refuse or that repeat another field.

    Raises:
        BadModelFile: one line per problem, with the field and the remedy.
    """
    version, known = known_arguments()
    lines = []
    words = model.engine.arguments
    for place, word in enumerate(words):
        if not word.startswith("--"):
            continue
        flag, equals, value = word.partition("=")
        if not equals and place + 1 < len(words) and not words[place + 1].startswith("--"):
            equals, value = "=", words[place + 1]
        if flag in OWNED:
            lines.append(f'engine.arguments: "{flag}" is set from {OWNED[flag]}: remove it')
        elif flag not in known:
            close = difflib.get_close_matches(flag, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f'engine.arguments: "{flag}" is not an argument of vLLM {version}{hint}')
        elif equals and (choices := known[flag]) and not set(value.split(",")) <= set(choices):
            lines.append(
                f'engine.arguments: {flag} "{value}" is none of vLLM {version}\'s ({", ".join(choices)})'
            )
    for name in ("quantization", "dtype", "tool_call_parser", "reasoning_parser"):
        choices = known[f"--{name.replace('_', '-')}"] or []
        chosen: str | None = getattr(model.engine, name)
        if chosen is not None and chosen not in choices:
            lines.append(
                f'engine.{name}: "{chosen}" is none of vLLM {version}\'s {name} values ({", ".join(choices)})'
            )
    if lines:
        raise BadModelFile("\n".join(f"{file}: {line}" for line in lines))
