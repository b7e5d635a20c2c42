"""The model behind the real stack answers correctly, so weights, precision and chat template are correct."""

import httpx
import pytest

from harness.stacks.local import Stack

pytestmark = [pytest.mark.platform, pytest.mark.timeout(700)]


@pytest.mark.parametrize(
    ("model", "backend"), [("smollm2-135m-instruct", None), ("smollm2-135m-long", "backend-b")]
)
def test_the_capital_of_france_is_paris(vllm_stack: Stack, model: str, backend: str | None) -> None:
    answer = httpx.post(
        f"{vllm_stack.edge}/v1/chat/completions",
        json={
            "model": model,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "temperature": 0,
            "max_tokens": 32,
        },
        headers={"authorization": f"Bearer {vllm_stack.key}"},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert backend in (None, answer.headers["x-route-backend"])


def test_make_up_itself_shows_that_answer_and_where_its_time_went(vllm_stack: Stack) -> None:
    shown = (vllm_stack.run_dir / "up.txt").read_text()
    assert "The capital of France is Paris." in shown
    assert "engine: prefill of the prompt" in shown
    assert "unexplained (signed)" in shown
    assert vllm_stack.key not in shown
