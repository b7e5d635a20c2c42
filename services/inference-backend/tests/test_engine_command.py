"""One model file gives the engine's command line; a mistake in it is one clear sentence."""

from pathlib import Path

import pytest

from backend_agent.engine_command import engine_command, engine_environment, stores_responses
from backend_agent.main import main
from backend_agent.model_file import BadModelFile, load_model_file
from backend_agent.vllm_arguments import check_arguments

MODELS = Path(__file__).parents[1] / "models"


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_model_file_gives_a_command_that_serves_all_its_names(path: Path) -> None:
    model = load_model_file(path)
    command = engine_command(model, Path("/models/x"), "127.0.0.1", 8101)
    at = command.index("--served-model-name")
    assert command[at + 1 : at + 1 + len(model.served_names)] == model.served_names
    assert {
        "--enable-per-request-metrics",
        "--enable-force-include-usage",
        "--enable-prompt-tokens-details",
    } <= set(command)


def test_the_cpu_model_runs_in_float32_with_its_cache_size() -> None:
    model = load_model_file(MODELS / "smollm2-135m-instruct.yaml")
    command = engine_command(model, Path("/models/x"), "127.0.0.1", 8101)
    assert command[command.index("--dtype") + 1] == "float32"
    assert engine_environment(model)["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_responses_are_stored_only_with_vllms_variable() -> None:
    model = load_model_file(MODELS / "smollm2-135m-instruct.yaml")
    assert not stores_responses(model)
    for value, stored in (("0", False), ("1", True)):
        environment = {"VLLM_ENABLE_RESPONSES_API_STORE": value}
        engine = model.engine.model_copy(update={"environment": environment})
        assert stores_responses(model.model_copy(update={"engine": engine})) is stored


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    text = (MODELS / "smollm2-135m-instruct.yaml").read_text()
    path = tmp_path / "model.yaml"
    path.write_text(text.replace("  dtype:", "  dtyp: x\n  dtype:"))
    with pytest.raises(BadModelFile, match=r"engine\.dtyp"):
        load_model_file(path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="No such file"):
        load_model_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_pinned_vllm_knows_every_argument_of_every_model(path: Path) -> None:
    check_arguments(load_model_file(path), path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("--enable-prefix-caching", "--enable-prefix-cache", "did you mean --enable-prefix-caching?"),
        ("--enable-prefix-caching", "--port=9", '"--port" is set from the start command: remove it'),
        (
            "--enable-prefix-caching",
            "--tool-call-parser=hermes",
            "is set from engine.tool_call_parser: remove it",
        ),
        (
            "  dtype: float16",
            "  tool_call_parser: mistrall\n  dtype: float16",
            "none of vLLM 0.32.0's tool_call_parser",
        ),
        (
            "  dtype: float16",
            "  reasoning_parser: qwen\n  dtype: float16",
            "none of vLLM 0.32.0's reasoning_parser",
        ),
        ("awq_marlin", "awq_merlin", 'engine.quantization: "awq_merlin" is none of vLLM 0.32.0'),
    ],
)
def test_an_argument_that_vllm_would_refuse_is_refused_before_it_starts(
    old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.yaml"
    path.write_text((MODELS / "mistral-7b-instruct-v0.2-awq.yaml").read_text().replace(old, new))
    words = ["engine-command", "--model-file", str(path), "--port", "1", "--model-path", "/m"]
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_the_llama_answers_to_the_name_that_does_not_exist_and_to_its_own() -> None:
    names = load_model_file(MODELS / "llama-3.1-8b-instruct-awq.yaml").served_names
    assert {"llama-3.1-8b-instruct-awq", "Llama-3.2-8B-Instruct-AWQ"} <= set(names)


def test_llama_calls_tools_and_a_reasoning_model_names_its_parser() -> None:
    llama = load_model_file(MODELS / "llama-3.1-8b-instruct-awq.yaml")
    command = engine_command(llama, Path("/models/x"), "0.0.0.0", 8000)
    assert "--enable-auto-tool-choice" in command
    assert command[command.index("--tool-call-parser") + 1] == "llama3_json"
    assert "--reasoning-parser" not in command
    engine = llama.engine.model_copy(update={"reasoning_parser": "qwen3", "chat_template": "chat.jinja"})
    command = engine_command(llama.model_copy(update={"engine": engine}), Path("/models/x"), "0.0.0.0", 8000)
    assert command[command.index("--reasoning-parser") + 1] == "qwen3"
    assert command[command.index("--chat-template") + 1] == "/models/x/chat.jinja"


def test_a_gpu_model_says_what_it_needs_and_gets_it_on_the_command_line() -> None:
    model = load_model_file(MODELS / "mistral-7b-instruct-v0.2-awq.yaml")
    command = engine_command(model, Path("/models/x"), "0.0.0.0", 8000)
    assert command[command.index("--quantization") + 1] == "awq_marlin"
    assert command[command.index("--kv-offloading-size") + 1] == "4"
    assert "--tensor-parallel-size" not in command
    two = model.model_copy(update={"needs": model.needs.model_copy(update={"gpus": 2})})
    command = engine_command(two, Path("/models/x"), "0.0.0.0", 8000)
    assert command[command.index("--tensor-parallel-size") + 1] == "2"
