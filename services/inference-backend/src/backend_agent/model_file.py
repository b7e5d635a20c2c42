"""The types of a model file. Knows what a model needs, not where it runs."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class BadModelFile(Exception):
    """A model file is invalid. The message has one line per problem."""


class Strict(BaseModel):
    """Rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Engine(Strict):
    """Start arguments of the engine."""

    dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int = Field(ge=1)
    max_num_seqs: int = Field(ge=1)
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    # vLLM's parser of this model's tool calls; enables automatic tool choice.
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None  # vLLM's parser of this model's reasoning.
    # A file in the folder of the weights, or the template itself on one line; default: the model's own
    # template.
    chat_template: str | None = None
    # KV cache that is offloaded to the pod's memory when the GPU's is full.
    kv_offload_gib: float = Field(0, ge=0)
    arguments: list[str] = []
    environment: dict[str, str] = {}


class WarmUp(Strict):
    """Warm-up requests, and the condition for a warm engine."""

    prompt_words: list[Annotated[int, Field(ge=1)]] = Field([8], min_length=1)
    concurrent: int = Field(2, ge=1)
    max_tokens: int = Field(8, ge=1)
    longest_prompt: bool = False  # Start with one prompt that fills the whole context.
    max_rounds: int = Field(4, ge=2)
    settled_factor: float = Field(2.0, gt=1)


class Needs(Strict):
    """Requirements for the node: whole GPUs, and GiB of memory per GPU, of the processes, and of /dev/shm in
    addition.
    """

    gpus: int = Field(0, ge=0)
    gpu_memory_gib: float = Field(0, ge=0)
    memory_gib: float = Field(gt=0)
    shm_gib: float = Field(1, gt=0)
    cpus: float = Field(1, gt=0)
    disk_gib: float = Field(gt=0)

    @model_validator(mode="after")
    def _gpus_have_memory(self) -> "Needs":
        if (self.gpus > 0) != (self.gpu_memory_gib > 0):
            raise ValueError("gpus and gpu_memory_gib go together: both, or neither for a CPU engine")
        return self


class ModelFile(Strict):
    """One model: its names, its source, its engine's arguments, its requirements, its warm-up.

    ``repository`` is the name on the hub and ``revision`` the chosen commit; both are empty for weights from
    elsewhere. ``licence`` is an SPDX identifier or the title of the model's own licence.
    """

    name: str
    source: str
    repository: str = ""
    revision: str = ""
    licence: str
    aliases: list[str] = []
    engine: Engine
    needs: Needs
    warm_up: WarmUp = WarmUp()

    @model_validator(mode="after")
    def _shared_memory_holds_the_offload(self) -> "ModelFile":
        # On CUDA, vLLM stores the offloaded KV cache in /dev/shm and does not start if that is smaller.
        least = self.engine.kv_offload_gib + 1
        if self.needs.gpus and self.engine.kv_offload_gib and self.needs.shm_gib < least:
            raise ValueError(
                f"needs.shm_gib {self.needs.shm_gib:g} is less than engine.kv_offload_gib "
                f"{self.engine.kv_offload_gib:g} + 1: vLLM keeps the offload in /dev/shm; set it to {least:g} or more"
            )
        return self

    @property
    def digest(self) -> str:
        """Return 12 hex digits that identify the contents of the file, whatever their order and comments."""
        return sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @property
    def served_names(self) -> list[str]:
        """Return every name that the engine serves; the model's own name first."""
        return [self.name, *self.aliases]


def load_model_file(path: Path) -> ModelFile:
    """Read a model file.

    Raises:
        BadModelFile: the file is missing, is not YAML, or does not match the contract.
    """
    try:
        document = yaml.safe_load(path.read_text())
        return ModelFile.model_validate(document)
    except OSError as error:
        raise BadModelFile(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise BadModelFile(f"{path}: not YAML ({error})") from None
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(str(key) for key in problem['loc'])}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise BadModelFile("\n".join(lines)) from None
