"""The chat template of the Mistral model file adds a system message to a user turn; the model's template refuses it."""

from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backend_agent.engine_command import engine_command
from backend_agent.model_file import load_model_file

MODEL = Path(__file__).resolve().parents[1] / "models/mistral-7b-instruct-v0.2-awq.yaml"


def rendered(*messages: tuple[str, str]) -> str:
    """Return the prompt, with the settings that transformers uses for templates."""
    argv = engine_command(load_model_file(MODEL), Path("/models/own"), "0.0.0.0", 8000)
    template = argv[argv.index("--chat-template") + 1]
    assert "\n" not in template, "vLLM takes a template in place only on one line"
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    said = [{"role": role, "content": content} for role, content in messages]
    return environment.from_string(template).render(
        messages=said, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
    )


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([("user", "Hi")], "<s>[INST] Hi [/INST]"),
        ([("system", "Be brief."), ("user", "Hi")], "<s>[INST] Be brief.\n\nHi [/INST]"),
        (
            [("system", "A"), ("user", "B"), ("assistant", "C"), ("system", "D"), ("user", "E")],
            "<s>[INST] A\n\nD\n\nB [/INST]C</s>[INST] E [/INST]",
        ),
        ([("developer", "A"), ("user", "B")], "<s>[INST] A\n\nB [/INST]"),
        ([("system", "A")], "<s>[INST] A [/INST]"),
    ],
)
def test_system_messages_come_before_the_first_user_turn(
    messages: list[tuple[str, str]], prompt: str
) -> None:
    assert rendered(*messages) == prompt
