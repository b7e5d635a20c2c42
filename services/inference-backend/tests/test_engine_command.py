"""One model file gives the engine's command line; a mistake in it is one clear sentence."""

from pathlib import Path

import pytest

from backend_agent.engine_command import engine_command, engine_environment
from backend_agent.model_file import BadModelFile, load_model_file

MODELS = Path(__file__).parents[1] / "models"


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_model_file_gives_a_command_that_serves_all_its_names(path: Path) -> None:
    model = load_model_file(path)
    command = engine_command(model, Path("/models/x"), "127.0.0.1", 8101)
    at = command.index("--served-model-name")
    assert command[at + 1 : at + 1 + len(model.served_names)] == model.served_names
    assert {"--enable-per-request-metrics", "--enable-force-include-usage"} <= set(command)


def test_the_cpu_model_runs_in_float32_with_its_cache_size() -> None:
    model = load_model_file(MODELS / "smollm2-135m-instruct.yaml")
    command = engine_command(model, Path("/models/x"), "127.0.0.1", 8101)
    assert command[command.index("--dtype") + 1] == "float32"
    assert engine_environment(model)["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    text = (MODELS / "smollm2-135m-instruct.yaml").read_text()
    path = tmp_path / "model.yaml"
    path.write_text(text.replace("  dtype:", "  dtyp: x\n  dtype:"))
    with pytest.raises(BadModelFile, match=r"engine\.dtyp"):
        load_model_file(path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="No such file"):
        load_model_file(tmp_path / "none.yaml")
