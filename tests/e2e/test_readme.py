"""The README's commands work as described on a running stack."""

import os
import re
import subprocess
import sys

import pytest

from harness.stacks.local import ROOT, Stack

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.timeout(300)]

README = (ROOT / "README.md").read_text()
# Other tests of this folder run the `make` lines.
MAKE_LINES = re.compile(r"^make [a-z]+ +#.*$")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def shell_blocks() -> list[str]:
    """Return the blocks that are more than a list of make targets."""
    return [
        block for block in blocks("bash") if not all(MAKE_LINES.match(line) for line in block.splitlines())
    ]


def environment(stack: Stack) -> dict[str, str]:
    return {**os.environ, **stack.environment, **stack.client_environment()}


def on_this_stack(block: str, stack: Stack) -> str:
    """Change a block's folder and router address to those of the test's stack, and shorten its load."""
    for word, value in (
        (". .run/client.env", f". {stack.run_dir}/client.env"),
        ("router-service explain ", f"router-service explain --url {stack.router} "),
        ("DURATION=30 ", "DURATION=5 "),
    ):
        block = block.replace(word, value)
    return block


@pytest.mark.parametrize("number", range(len(shell_blocks())))
def test_each_shell_block_runs(sim_stack: Stack, number: int) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", on_this_stack(shell_blocks()[number], sim_stack)],
        cwd=ROOT,
        env=environment(sim_stack),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert '"error"' not in done.stdout


def test_there_are_blocks_to_run() -> None:
    assert len(shell_blocks()) >= 2
    assert len(blocks("python")) == 1


def test_the_python_block_prints_an_answer(sim_stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]],
        env=environment(sim_stack),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
