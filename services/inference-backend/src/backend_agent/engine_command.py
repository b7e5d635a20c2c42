"""Turns a model file into the vLLM command line: the one place that knows vLLM's flags."""

from pathlib import Path

from backend_agent.model_file import ModelFile

# What the platform needs of every engine, whatever the model: its own figures for each request (the
# ledger's queue and prefill), usage at the end of every stream, our request id, and a graceful end.
PLATFORM_ARGUMENTS = (
    "--enable-per-request-metrics",
    "--enable-force-include-usage",
    "--enable-request-id-headers",
)
SHUTDOWN_SECONDS = 25
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Above the router's idle time for kept connections, so that the caller closes first.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
}


def engine_command(model: ModelFile, model_path: Path, host: str, port: int) -> list[str]:
    """Return the command line. The module is named because the CPU wheel's `vllm` command does not start."""
    engine = model.engine
    gpus = model.needs.gpus
    parallel = ["--tensor-parallel-size", str(gpus)] if gpus > 1 else []
    share = engine.gpu_memory_utilization
    memory = ["--gpu-memory-utilization", f"{share:g}"] if share is not None else []
    offload = ["--kv-offloading-size", f"{engine.kv_offload_gib:g}"] if engine.kv_offload_gib else []
    quantization = ["--quantization", engine.quantization] if engine.quantization else []
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
        *("--max-model-len", str(engine.max_model_len)),
        *("--max-num-seqs", str(engine.max_num_seqs)),
        *("--shutdown-timeout", str(SHUTDOWN_SECONDS)),
        *PLATFORM_ARGUMENTS,
        *engine.arguments,
    ]


def engine_environment(model: ModelFile) -> dict[str, str]:
    """Return the environment variables the engine needs beside the machine's own."""
    return {**ENVIRONMENT, **model.engine.environment}
