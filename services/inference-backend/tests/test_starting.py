"""Each problem that prevents an engine's start is one clear sentence, and no other component is affected."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from backend_agent.main import main
from backend_agent.model_file import load_model_file
from backend_agent.starting import wrong_memory
from harness.ports import free_port
from harness.processes import answers, running
from harness.waiting import eventually

MODELS = Path(__file__).parents[1] / "models"
BIN = Path(sys.executable).parent


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model's folder, whole, in two shards."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in ("a", "b"):
        (folder / f"{name}.safetensors").write_bytes(name.encode() * 1000)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(folder.iterdir())
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    return folder


def model_file(tmp_path: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> Path:
    """Return the CPU model's file with a change."""
    document = yaml.safe_load((MODELS / "smollm2-135m-instruct.yaml").read_text())
    document["needs"]["memory_gib"] = 0.001
    document["engine"]["environment"] = {}
    change(document)
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def as_it_is(document: dict[str, dict[str, object]]) -> None: ...


def with_argument(*words: str) -> Callable[[dict[str, dict[str, object]]], object]:
    return lambda document: document["engine"].update(arguments=list(words))


BAD: dict[str, tuple[Callable[..., object], Callable[[Path], object], str]] = {
    "a bad flag": (
        with_argument("--enforce-eagre"),
        lambda folder: None,
        '"--enforce-eagre" is not an argument of vLLM 0.32.0; did you mean --enforce-eager?',
    ),
    "a bad value": (
        with_argument("--scheduling-policy", "lifo"),
        lambda folder: None,
        '--scheduling-policy "lifo" is none of vLLM 0.32.0\'s (fcfs, priority)',
    ),
    "a bad value after an equals sign": (
        with_argument("--scheduling-policy=lifo"),
        lambda folder: None,
        '--scheduling-policy "lifo" is none of',
    ),
    "a bad dtype": (
        lambda document: document["engine"].update(dtype="float8"),
        lambda folder: None,
        'engine.dtype: "float8" is none of vLLM 0.32.0\'s dtype values (auto, bfloat16,',
    ),
    "a missing shard": (
        as_it_is,
        lambda folder: (folder / "b.safetensors").unlink(),
        "b.safetensors of model.safetensors.index.json is missing; download the model again",
    ),
    "no weights at all": (
        as_it_is,
        lambda folder: [path.unlink() for path in folder.glob("*.safetensors*")],
        "there is no weight file (*.safetensors)",
    ),
    "an empty shard": (
        as_it_is,
        lambda folder: (folder / "b.safetensors").write_bytes(b""),
        "b.safetensors is empty",
    ),
    "no configuration": (
        as_it_is,
        lambda folder: (folder / "config.json").unlink(),
        "config.json is missing",
    ),
    "no folder": (as_it_is, lambda folder: folder.rename(folder.with_name("elsewhere")), "no such folder"),
    "an index that is none": (
        as_it_is,
        lambda folder: (folder / "model.safetensors.index.json").write_text("[]"),
        "not an index of weight files",
    ),
    "too little memory": (
        lambda document: document["needs"].update(memory_gib=9000),
        lambda folder: None,
        "smollm2-135m-instruct needs 9000.0 GiB of memory",
    ),
    "too large a cache": (
        lambda document: document["engine"].update(environment={"VLLM_CPU_KVCACHE_SPACE": "8000"}),
        lambda folder: None,
        "KV cache 8000.0) and",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["start-engine", "check-model"])
def test_it_is_one_sentence_and_no_engine_starts(
    case: str, command: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, damage, said = BAD[case]
    file = model_file(tmp_path, change)
    damage(weights)
    words = [command, "--model-file", str(file), "--model-path", str(weights)]
    words += ["--port", "1", "--python", "/no/such/python"] if command == "start-engine" else []
    assert main(words) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_wrong_checksum_names_the_file_and_both_sums(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["check-model", "--model-file", str(model_file(tmp_path, as_it_is)), "--model-path", str(weights)]
    assert main(words) == 0
    (weights / "a.safetensors").write_bytes(b"x" * 1000)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "a.safetensors: the checksum is" in error
    assert "remove the folder, load it again" in error
    assert len(error.splitlines()) == 1


def test_the_engine_takes_the_place_of_the_command(weights: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$$ $*"\nenv | grep VLLM_\n')
    python.chmod(0o755)
    words = ["--model-file", str(model_file(tmp_path, as_it_is)), "--model-path", str(weights)]
    command = [str(BIN / "backend-agent"), "start-engine", *words, "--port", "7", "--python", str(python)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate(timeout=60)
    assert said.startswith(f"{process.pid} -m vllm.entrypoints.openai.api_server --model {weights} ")
    assert "--port 7 " in said
    assert "VLLM_HTTP_TIMEOUT_KEEP_ALIVE=60" in said


def test_a_gpu_model_says_so_where_there_is_no_gpu(tmp_path: Path) -> None:
    model = load_model_file(MODELS / "mistral-7b-instruct-v0.2-awq.yaml")
    (sentence,) = wrong_memory(model, tmp_path, 1 << 50)
    assert "needs 1 GPU(s) of 24 GiB" in sentence


def assert_an_unchanged_answer_is_only_confirmed(url: str) -> None:
    def confirmed() -> bool:
        tag = httpx.get(url).headers["etag"]
        answer = httpx.get(url, headers={"if-none-match": tag})
        return answer.status_code == 304 and not answer.content and answer.headers["etag"] == tag

    eventually(confirmed, "the state stays the same for two probes")
    other = httpx.get(url, headers={"if-none-match": 'W/"stuck-7"'})
    assert (other.status_code, other.json()["backend"]) == (200, "good")


@pytest.mark.service
@pytest.mark.timeout(120)
def test_an_engine_that_cannot_start_is_never_ready_and_its_neighbour_does_not_notice(
    weights: Path, tmp_path: Path
) -> None:
    (weights / "b.safetensors").unlink()
    bad, good, agents = free_port(), free_port(), (free_port(), free_port())
    file = model_file(tmp_path, as_it_is)
    name = "smollm2-135m-instruct"
    simulator = [BIN / "engine-simulator", "serve", "--port", str(good), "--model", name]
    agent = [BIN / "backend-agent", "serve", "--model-file", MODELS / f"{name}.yaml", "--device", "none"]
    start = [BIN / "backend-agent", "start-engine", "--model-file", file, "--model-path", weights]
    with (
        running(simulator, log=tmp_path / "good.log", ready=answers(f"http://127.0.0.1:{good}/health")),
        running(
            [*agent, "--name", "good", "--engine-url", f"http://127.0.0.1:{good}", "--port", str(agents[0])],
            log=tmp_path / "good-agent.log",
            ready=answers(f"http://127.0.0.1:{agents[0]}/readyz"),
            ready_seconds=60,
        ),
        running(
            [*agent, "--name", "bad", "--engine-url", f"http://127.0.0.1:{bad}", "--port", str(agents[1])],
            log=tmp_path / "bad-agent.log",
            ready=answers(f"http://127.0.0.1:{agents[1]}/readyz", 503),
        ),
    ):
        for _ in range(2):  # a supervisor tries again
            done = subprocess.run(
                [*start, "--port", str(bad)], capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 1
            assert "ERROR the engine cannot start: " in done.stderr
            assert "b.safetensors of model.safetensors.index.json is missing" in done.stderr
            assert len(done.stderr.splitlines()) == 1
        answer = httpx.get(f"http://127.0.0.1:{agents[1]}/readyz")
        assert (answer.status_code, answer.json()["state"]) == (503, "starting")
        eventually(lambda: answers(f"http://127.0.0.1:{agents[0]}/readyz")(), "the good one is ready")
        assert_an_unchanged_answer_is_only_confirmed(f"http://127.0.0.1:{agents[0]}/readyz")
        body = {"model": name, "prompt": "Hi", "max_tokens": 3}
        done_well = httpx.post(f"http://127.0.0.1:{good}/v1/completions", json=body, timeout=30)
        assert done_well.status_code == 200
