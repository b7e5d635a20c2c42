"""Memory that a model file asks for: /dev/shm must hold the KV offload."""

import shutil
from pathlib import Path

import pytest
import yaml

from backend_agent.model_file import BadModelFile, load_model_file

MODELS = Path(__file__).resolve().parents[1] / "models"
GPU_MODELS = sorted(path for path in MODELS.glob("*.yaml") if "gpus: 1" in path.read_text())


@pytest.mark.parametrize("path", GPU_MODELS, ids=lambda path: path.stem)
def test_a_model_with_less_shared_memory_than_its_offload_is_refused(path: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    shutil.copy(path, own)
    document = yaml.safe_load(own.read_text())
    load_model_file(own)
    document["needs"]["shm_gib"] = document["engine"]["kv_offload_gib"]
    own.write_text(yaml.safe_dump(document))
    with pytest.raises(
        BadModelFile, match=r"needs.shm_gib 4 is less than engine.kv_offload_gib 4 .* set it to 5 or more"
    ):
        load_model_file(own)
    document["engine"]["kv_offload_gib"] = 0
    document["needs"]["shm_gib"] = 1
    own.write_text(yaml.safe_dump(document))
    load_model_file(own)
