"""The commands of every runbook run on a local stack; those of kubectl are parsed by the real kubectl."""

import os
import re
import shlex
import signal
import subprocess

import httpx
import pytest

from harness.kubernetes.tools import tool
from harness.stacks.faults import pid_of
from harness.stacks.local import ROOT
from harness.stacks.observed import Observed
from harness.waiting import eventually

RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
PROGRAMS = ("curl", "kubectl", "make", "router-service", "redis-cli", "scripts/")
OFFLINE = ("--server=http://127.0.0.1:9", "--request-timeout=2s")
"""No server listens there: kubectl parses the command line, then fails to connect."""


def commands() -> dict[str, set[str]]:
    """Every command line in a code span, with the runbooks that show it."""
    found: dict[str, set[str]] = {}
    for path in RUNBOOKS:
        for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", path.read_text()):
            if span.startswith(PROGRAMS):
                found.setdefault(span, set()).add(path.stem)
    return found


KUBECTL = sorted(one for one in commands() if one.startswith("kubectl"))
LOCAL = sorted(one for one in commands() if not one.startswith("kubectl"))


def test_every_runbook_shows_something_that_can_be_run_or_asked() -> None:
    for path in RUNBOOKS:
        assert re.findall(r"`[^`\n]*(?:[({/_:]| -)[^`\n]*`", path.read_text()), path.name


@pytest.mark.parametrize("line", KUBECTL)
def test_kubectl_understands_it(line: str) -> None:
    words = [word.replace("BACKEND", "backend-a").replace("NODE", "node-1") for word in shlex.split(line)]
    command = [str(tool("kubectl")), *words[1:], *OFFLINE]
    if words[1] == "config":
        command = command[: -len(OFFLINE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = done.stdout + done.stderr
    assert "refused" in said or done.returncode == 0, said
    assert "unknown" not in said, said


@pytest.mark.service
@pytest.mark.timeout(300)
@pytest.mark.parametrize("line", LOCAL)
def test_it_runs_on_the_stack(line: str, observed_stack: Observed) -> None:
    done = subprocess.run(
        ["bash", "-c", on(observed_stack, line)], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120,
        env=environment(observed_stack),
    )  # fmt: skip
    assert done.returncode in ((0, 124) if "--latency" in line else (0,)), (line, done.stdout, done.stderr)
    assert done.stdout.strip(), line
    if "/drain" in line:
        _take_back(observed_stack)


def on(observed: Observed, line: str) -> str:
    """Return the command with this stack's addresses and files."""
    stack = observed.stack
    request_id = observed.ask("Say hello.").headers["x-request-id"]
    eventually(
        lambda: httpx.get(f"{stack.router}/debug/decisions/{request_id}", timeout=10).status_code == 200,
        "the record is kept",
        20,
    )
    config = stack.environment["ROUTER_CONFIG"]
    for word, value in (
        ("http://127.0.0.1:8000", stack.router),
        ("http://127.0.0.1:9090", stack.url("PROMETHEUS_PORT")),
        ("http://127.0.0.1:8111", stack.url("AGENT_A_PORT")),
        ("http://127.0.0.1:8101", stack.url("ENGINE_A_PORT")),
        ("redis-cli --latency", f"timeout 3 redis-cli -p {stack.environment['REDIS_PORT']} --latency"),
        ("explain ID", f"explain {request_id} --url {stack.router}"),
        ("--config FILE", f"--config {config}"),
        ("NAME", "backend-a"),
        ("curl -s ", "curl -sf "),
    ):
        line = line.replace(word, value)
    return (
        line.replace("router-service ", ".venv/bin/router-service ", 1) if line.startswith("router") else line
    )


def environment(observed: Observed) -> dict[str, str]:
    """Return PATH and the variables that select the stack for `make`."""
    return {**os.environ, **observed.stack.environment}


def _take_back(observed: Observed) -> None:
    """A drained agent stays drained; a restarted one does not."""
    os.kill(pid_of(observed.stack, "agent-a"), signal.SIGKILL)
    url = observed.stack.url("AGENT_A_PORT", "/readyz")

    def ready() -> bool:
        try:
            return httpx.get(url, timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    eventually(ready, "backend-a is ready again", 90)
