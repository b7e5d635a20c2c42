"""Whole stacks for tests, started by the same scripts as `make up`, on separate ports and in a separate folder."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.ports import free_port
from platform_tools.local_stack.commands import as_json
from platform_tools.local_stack.settings import DEFAULT_PORTS, load_settings

ROOT = Path(__file__).resolve().parents[3]
UP_SECONDS = {"sim": 150.0, "vllm": 500.0}


@dataclass(frozen=True)
class Stack:
    """One stack: the variables that select it, and what a client needs."""

    environment: Mapping[str, str]

    @property
    def run_dir(self) -> Path:
        return Path(self.environment["RUN_DIR"])

    def url(self, variable: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.environment[variable]}{path}"

    @property
    def edge(self) -> str:
        return self.url("EDGE_PORT")

    @property
    def router(self) -> str:
        return self.url("ROUTER_PORT")

    def client_environment(self) -> dict[str, str]:
        """Return the content of client.env."""
        lines = (self.run_dir / "client.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def key(self) -> str:
        return self.client_environment()["OPENAI_API_KEY"]

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of scripts/ on this stack and return what it printed."""
        return subprocess.run(
            self.command(script, *arguments),
            env={**os.environ, **self.environment, **variables},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=UP_SECONDS[self.environment["PROFILE"]],
        )

    def command(self, script: str, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "scripts" / script), *arguments]

    def states(self) -> dict[str, dict[str, Any]]:
        """Return every part's row of `make status`, by name. Starts no process, because tests poll it under load."""
        rows = json.loads(as_json(load_settings(ROOT, self.environment)))
        return {row["part"]: row for row in rows}

    def down(self) -> subprocess.CompletedProcess[str]:
        return self.run("stop-stack")


def new_stack(profile: str, run_dir: Path, **variables: str) -> Stack:
    """Return a stack on free ports that does not run yet; every script gets ``variables``."""
    chosen = {variable: str(free_port()) for variable in DEFAULT_PORTS}
    return Stack({"PROFILE": profile, "RUN_DIR": str(run_dir), **chosen, **variables})


@contextlib.contextmanager
def running_stack(profile: str, run_dir: Path, **variables: str) -> Iterator[Stack]:
    """Run a stack until the block ends; every script gets ``variables``.

    Raises:
        AssertionError: it did not start, or a process of it was left afterwards.
    """
    stack = new_stack(profile, run_dir, **variables)
    try:
        up = stack.run("start-stack")
        assert up.returncode == 0, f"make up PROFILE={profile} failed:\n{up.stdout}\n{up.stderr}"
        (run_dir / "up.txt").write_text(up.stdout)
        yield stack
    finally:
        down = stack.down()
    assert down.returncode == 0, down.stdout + down.stderr
