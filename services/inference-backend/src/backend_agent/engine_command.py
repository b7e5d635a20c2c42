"""Converts a model file to the vLLM command line. The only module that knows vLLM's flags."""

import os
from pathlib import Path

from backend_agent.model_file import ModelFile

# Required for every model: per-request timings (queue and prefill of the ledger),
# usage at the end of every stream, the request id, cached tokens in the usage, and a graceful shutdown.
PLATFORM_ARGUMENTS = (
    "--enable-per-request-metrics",
    "--enable-force-include-usage",
    "--enable-request-id-headers",
    "--enable-prompt-tokens-details",
)
SHUTDOWN_SECONDS = 25
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Longer than the router keeps idle connections, so that the router closes first.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
}


def engine_command(model: ModelFile, model_path: Path, host: str, port: int) -> list[str]:
    """Return the command line. It runs the module, because the CPU wheel's `vllm` command does not start."""
    engine = model.engine
    gpus = model.needs.gpus
    parallel = ["--tensor-parallel-size", str(gpus)] if gpus > 1 else []
    share = engine.gpu_memory_utilization
    memory = ["--gpu-memory-utilization", f"{share:g}"] if share is not None else []
    offload = ["--kv-offloading-size", f"{engine.kv_offload_gib:g}"] if engine.kv_offload_gib else []
    quantization = ["--quantization", engine.quantization] if engine.quantization else []
    tools = (
        ["--enable-auto-tool-choice", "--tool-call-parser", engine.tool_call_parser]
        if engine.tool_call_parser
        else []
    )
    reasoning = ["--reasoning-parser", engine.reasoning_parser] if engine.reasoning_parser else []
    template = (
        ["--chat-template", _template(model_path, engine.chat_template)] if engine.chat_template else []
    )
    return [
        "python3",
        "-m",
        "vllm.entrypoints.openai.api_server",
        *("--model", str(model_path)),
        *("--served-model-name", *model.served_names),
        *("--host", host, "--port", str(port)),
        *("--dtype", engine.dtype),
        *quantization,
        *parallel,
        *memory,
        *offload,
        *tools,
        *reasoning,
        *template,
        *("--max-model-len", str(engine.max_model_len)),
        *("--max-num-seqs", str(engine.max_num_seqs)),
        *("--shutdown-timeout", str(SHUTDOWN_SECONDS)),
        *PLATFORM_ARGUMENTS,
        *engine.arguments,
    ]


def engine_environment(model: ModelFile) -> dict[str, str]:
    """Return the environment variables to add for the engine."""
    return {**ENVIRONMENT, **model.engine.environment}


def stores_responses(model: ModelFile) -> bool:
    """Return whether the engine keeps responses for later requests; False by vLLM's default."""
    known = {**os.environ, **engine_environment(model)}
    return known.get("VLLM_ENABLE_RESPONSES_API_STORE", "0").strip() not in ("", "0")


def _template(model_path: Path, text: str) -> str:
    """Return vLLM's value: a template on one line unchanged, else the path of a file in the folder of the
    weights.
    """
    return text if "{{" in text else str(model_path / text)
