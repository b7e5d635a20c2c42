"""Reports what prevents an engine from starting, one sentence per problem, before vLLM prints a traceback.

Checks the model's files and the machine's memory; ``vllm_arguments`` checks vLLM's arguments.
"""

import json
import os
from pathlib import Path

from backend_agent.model_file import ModelFile
from backend_agent.weights import CHECKSUMS, CannotLoad, file_digest, read_checksums

GIB = 1 << 30
KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"  # GiB for a CPU engine


def wrong_files(folder: Path, *, checksums: bool) -> list[str]:
    """Return one sentence per problem with a model's files; ``checksums`` reads all of them (1 GB: seconds)."""
    wrong = _missing(folder)
    return wrong or (_checksums(folder) if checksums else [])


def wrong_memory(model: ModelFile, folder: Path, free_bytes: int) -> list[str]:
    """Return one sentence if the model does not fit into this machine's GPUs, or into ``free_bytes``."""
    if model.needs.gpus:
        return _gpu_memory(model)
    cache = float(model.engine.environment.get(KV_CACHE, "0") or 0)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / GIB
    needed = max(model.needs.memory_gib, weights + cache)
    if needed * GIB <= free_bytes:
        return []
    return [
        f"{model.name} needs {needed:.1f} GiB of memory (weights {weights:.1f}, KV cache {cache:.1f}) and "
        f"{free_bytes / GIB:.1f} GiB are free; end something, or lower {KV_CACHE} in the model file"
    ]


def _missing(folder: Path) -> list[str]:
    remedy = "download the model again (backend-agent load-weights; locally: make up)"
    if not folder.is_dir():
        return [f"{folder}: no such folder; {remedy}"]
    if not (folder / "config.json").is_file():
        return [f"{folder}: config.json is missing; {remedy}"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            wanted = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return [f"{index}: not an index of weight files; {remedy}"]
        missing = sorted(name for name in wanted if not (folder / name).is_file())
        if missing:
            return [f"{folder}: {', '.join(missing)} of {index.name} is missing; {remedy}"]
    weights = [path for kind in ("safetensors", "bin") for path in folder.glob(f"*.{kind}")]
    if not weights:
        return [f"{folder}: there is no weight file (*.safetensors); {remedy}"]
    empty = [path.name for path in weights if path.stat().st_size == 0]
    return [f"{folder}: {', '.join(empty)} is empty; {remedy}"] if empty else []


def _checksums(folder: Path) -> list[str]:
    listed = folder / CHECKSUMS
    if not listed.is_file():
        return []
    try:
        sums = read_checksums(listed)
    except CannotLoad as error:
        return [str(error)]
    wrong = []
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            wrong.append(
                f"{folder}: {name} is listed in {CHECKSUMS} and is missing; remove the folder and load the model again"
            )
        elif (found := file_digest(path)) != expected:
            wrong.append(
                f"{path}: the checksum is {found[:12]}… instead of {expected[:12]}…; remove the folder, load it again"
            )
    return wrong


def _gpu_memory(model: ModelFile) -> list[str]:
    import pynvml  # type: ignore[import-untyped]

    needs = model.needs
    wanted = f"{model.name} needs {needs.gpus} GPU(s) of {needs.gpu_memory_gib:g} GiB"
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        sizes = [pynvml.nvmlDeviceGetMemoryInfo(handle).total / GIB for handle in handles]
    except pynvml.NVMLError as error:
        return [f"{wanted} and there is none here (NVML: {error})"]
    # A GPU sold as 24 GiB reports slightly less.
    enough = [size for size in sizes if size >= 0.9 * needs.gpu_memory_gib]
    if len(enough) >= needs.gpus:
        return []
    there = ", ".join(f"{size:.1f} GiB" for size in sizes) or "none"
    return [f"{wanted} and here are: {there}; choose other nodes, or a smaller model"]


def become_engine(argv: list[str], environment: dict[str, str]) -> None:
    """Replace this process by the engine.

    Raises:
        OSError: the program does not exist.
    """
    os.execvpe(argv[0], argv, {**os.environ, **environment})
