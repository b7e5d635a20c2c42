"""Keys and charts of the local stack are used for the local stack only."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from load_testing import run, workloads


@pytest.fixture
def listening() -> Iterator[str]:
    """Yield a base URL where a socket accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def stack(folder: Path, url: str) -> dict[str, str]:
    """Return the environment of a local stack at ``url``, whose keys are in its client.env."""
    (folder / "client.env").write_text(
        f"OPENAI_BASE_URL={url}\nOPENAI_API_KEY=sk-local\nOPENAI_API_KEY_LOAD=sk-local-load\n"
    )
    return {"RUN_DIR": str(folder)}


LOCAL = "http://127.0.0.1:1/v1"


def test_without_a_target_url_and_keys_are_those_of_the_local_stack(listening: str, tmp_path: Path) -> None:
    found = run.client_environment(stack(tmp_path, listening), None)
    assert found == {
        "OPENAI_BASE_URL": listening,
        "OPENAI_API_KEY": "sk-local",
        "OPENAI_API_KEY_LOAD": "sk-local-load",
    }
    assert run.client_environment(stack(tmp_path, listening), f"{listening}/")["OPENAI_API_KEY"] == "sk-local"


@pytest.mark.parametrize("by", ["TARGET", "environment"])
def test_no_local_key_is_sent_to_another_server(listening: str, tmp_path: Path, by: str) -> None:
    environment = {**stack(tmp_path, LOCAL), "OPENAI_API_KEY": "sk-theirs"}
    target = listening if by == "TARGET" else None
    found = run.client_environment({**environment, "OPENAI_BASE_URL": listening}, target)
    assert found["OPENAI_API_KEY"] == "sk-theirs"
    assert "local" not in "".join(found.values())


def test_another_server_without_a_key_is_one_sentence(listening: str, tmp_path: Path) -> None:
    with pytest.raises(run.BadTarget, match=r"OPENAI_API_KEY is not set: .* is not the local stack"):
        run.client_environment(stack(tmp_path, LOCAL), listening)


def test_neither_stack_nor_target_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(run.BadTarget, match="OPENAI_BASE_URL is not known"):
        run.client_environment({"RUN_DIR": str(tmp_path)}, None)


@pytest.mark.parametrize("target", ["llm.example.com/v1", f"http://{'a' * 70}.example/v1", "http://[/v1"])
def test_a_target_that_is_none_is_one_sentence(target: str, tmp_path: Path) -> None:
    with pytest.raises(run.BadTarget, match="TARGET"):
        run.client_environment({"RUN_DIR": str(tmp_path), "OPENAI_API_KEY": "x"}, target)


def test_the_local_prometheus_is_asked_only_about_the_local_stack(tmp_path: Path) -> None:
    environment = stack(tmp_path, LOCAL)
    assert run.prometheus_of(LOCAL, None, environment) == run.PROMETHEUS
    assert run.prometheus_of("https://llm.example.com/v1", None, environment) == ""
    assert run.prometheus_of("https://llm.example.com/v1", "http://p:9090", environment) == "http://p:9090"
    assert run.prometheus_of("https://llm.example.com/v1", None, {"RUN_DIR": str(tmp_path / "none")}) == ""


def test_only_on_the_local_stack_are_the_two_models_the_same_weights() -> None:
    workload = workloads.load("two-models")
    assert "names of the same weights" in workload.described(local=True)
    assert "weights" not in workload.described(local=False)
    assert workloads.load("fixed-rate").described(local=True) == workloads.load("fixed-rate").description
