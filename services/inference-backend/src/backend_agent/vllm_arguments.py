"""Whether the pinned vLLM knows a model file's arguments. The list is generated from vLLM's own parser."""

import difflib
import json
from functools import cache
from importlib import resources

from backend_agent.model_file import BadModelFile, ModelFile

# Set from other fields of the model file or by whoever starts the engine; a second one would win silently.
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
    """Refuse arguments that the pinned vLLM would refuse, or that say what another field says.

    Raises:
        BadModelFile: one line per problem, with the field and the remedy.
    """
    version, known = known_arguments()
    lines = []
    for word in model.engine.arguments:
        if not word.startswith("--"):
            continue
        flag = word.partition("=")[0]
        if flag in OWNED:
            lines.append(f'engine.arguments: "{flag}" is set from {OWNED[flag]}: remove it')
        elif flag not in known:
            close = difflib.get_close_matches(flag, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f'engine.arguments: "{flag}" is no argument of vLLM {version}{hint}')
    method = model.engine.quantization
    methods = known["--quantization"] or []
    if method is not None and method not in methods:
        lines.append(
            f'engine.quantization: "{method}" is none of vLLM {version}\'s methods ({", ".join(methods)})'
        )
    if lines:
        raise BadModelFile("\n".join(f"{file}: {line}" for line in lines))
