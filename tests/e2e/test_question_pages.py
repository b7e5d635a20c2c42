"""Each of the four questions has a page whose commands answer it on a running stack within a minute."""

import re
import subprocess
import time

import pytest

from harness.stacks.local import ROOT
from harness.stacks.observed import Observed
from harness.waiting import eventually
from platform_tools.local_stack.settings import DEFAULT_PORTS

PAGES = sorted(path for path in (ROOT / "docs" / "questions").glob("*.md") if path.name != "README.md")
QUESTIONS = {
    "why-did-the-first-token-get-slower",
    "which-backend-and-why",
    "saturated-or-stuck",
    "where-is-the-bottleneck",
}


def blocks(text: str) -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_there_is_a_page_for_each_question() -> None:
    assert {path.stem for path in PAGES} == QUESTIONS


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_has_commands_their_output_and_a_picture_and_no_dead_link(page) -> None:  # type: ignore[no-untyped-def]
    text = page.read_text()
    assert blocks(text)
    assert "```text\n" in text
    assert re.search(r"!\[[^\]]+\]\([^)]+\.svg\)", text)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.service
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_its_commands_answer_within_a_minute(page, observed_stack: Observed) -> None:  # type: ignore[no-untyped-def]
    observed_stack.wait_for_history()
    answer = observed_stack.ask("Say hello.")
    request_id = answer.headers["x-request-id"]
    eventually(
        lambda: observed_stack.platform.query("router_first_tokens_total"), "there are requests to query", 30
    )
    began = time.monotonic()
    for block in blocks(page.read_text()):
        for variable, port in DEFAULT_PORTS.items():
            block = block.replace(
                f"127.0.0.1:{port}", f"127.0.0.1:{observed_stack.stack.environment[variable]}"
            )
        block = block.replace("REQUEST_ID", f"{request_id} --url {observed_stack.stack.router}")
        # The test stack has run for half a minute only.
        block = block.replace("--window 2m --baseline 10m", "--window 10s --baseline 15s")
        environment = {**observed_stack.stack.environment, "PATH": "/usr/local/bin:/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip(), block
    assert time.monotonic() - began < 60
