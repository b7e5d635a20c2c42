"""The typed contract of a model file. Knows what a model needs, not where it runs."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class BadModelFile(Exception):
    """A model file cannot be used. The message has one line per problem."""


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Engine(Strict):
    """What the engine is started with."""

    dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int = Field(ge=1)
    max_num_seqs: int = Field(ge=1)
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    kv_offload_gib: float = Field(0, ge=0)  # KV cache kept in the pod's memory when the GPU's is full
    arguments: list[str] = []
    environment: dict[str, str] = {}


class WarmUp(Strict):
    """The requests that make an engine warm, and when it counts as warm."""

    prompt_words: list[Annotated[int, Field(ge=1)]] = Field([8], min_length=1)
    concurrent: int = Field(2, ge=1)
    max_tokens: int = Field(8, ge=1)
    longest_prompt: bool = False  # first of all one prompt that fills the whole context
    max_rounds: int = Field(4, ge=2)
    settled_factor: float = Field(2.0, gt=1)


class Needs(Strict):
    """What the node must have: whole GPUs, GiB of memory of each GPU, of the pod, and of /dev/shm."""

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
    """One model: its names, where it comes from, its engine, what that needs, its warm-up.

    ``repository`` is the hub's name and ``revision`` what of it was chosen; empty for weights that are brought
    otherwise. ``licence`` is an SPDX name or the title of the model's own.
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

    @property
    def served_names(self) -> list[str]:
        """Every name the engine answers to; its own first."""
        return [self.name, *self.aliases]


def load_model_file(path: Path) -> ModelFile:
    """Read a model file.

    Raises:
        BadModelFile: not there, not YAML, or not of this shape.
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
