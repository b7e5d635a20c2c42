"""`make check`: format, lint, types, import rules and dependencies of every package."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from platform_tools.checkout import ROOT
from platform_tools.local_stack.installation import PROJECTS

BIN = ROOT / ".venv" / "bin"
SHARED_BY_TESTS = ("harness", "podrunner")


@dataclass(frozen=True, slots=True)
class Check:
    """One program that must exit 0.

    Args:
        name: its name in the output.
        command: the program of the platform's environment, and its arguments.
        folder: where it runs; deptry reads the settings of that folder.
        mypy_path: where mypy looks for our packages.
    """

    name: str
    command: tuple[str, ...]
    folder: Path = ROOT
    mypy_path: str = ""

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run it without input and return what it printed."""
        program, *arguments = self.command
        return subprocess.run(
            [str(BIN / program), *arguments],
            cwd=self.folder,
            env={**os.environ, **({"MYPYPATH": self.mypy_path} if self.mypy_path else {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def python_scripts() -> list[str]:
    """Return the programs without a suffix that are Python, by their first line."""
    rooms = (ROOT / "scripts", ROOT / "tools/platform-tools/src/platform_tools/generators")
    found = [path for room in rooms for path in sorted(room.iterdir()) if path.is_file() and not path.suffix]
    return [
        str(path.relative_to(ROOT))
        for path in found
        if path.read_text().partition("\n")[0].endswith("python3")
    ]


def checks() -> Iterator[Check]:
    """Yield every check, the quick ones first."""
    scripts = python_scripts()
    yield Check("lint", ("ruff", "check", ".", *scripts))
    yield Check("format", ("ruff", "format", "--check", ".", *scripts))
    mypy = ("mypy", "--config-file", "pyproject.toml")
    for project in (ROOT / name for name in PROJECTS):
        name = str(project.relative_to(ROOT))
        yield Check(f"dependencies of {name}", ("deptry", "src"), folder=project)
        if "[tool.importlinter" in (project / "pyproject.toml").read_text():
            yield Check(f"import rules of {name}", ("lint-imports", "--config", f"{name}/pyproject.toml"))
        for package in sorted(path for path in (project / "src").iterdir() if (path / "py.typed").exists()):
            source = str(package.relative_to(ROOT))
            yield Check(f"types of {source}", (*mypy, source), mypy_path=f"tests:{project / 'src'}")
    for shared in SHARED_BY_TESTS:
        yield Check(f"types of tests/{shared}", (*mypy, f"tests/{shared}"), mypy_path="tests")


def main(arguments: list[str]) -> int:
    """Run every check and print its verdict; return 1 if one failed."""
    if not BIN.exists():
        wanted = [sys.executable, str(ROOT / "scripts" / "install-dependencies"), "platform"]
        if code := subprocess.run(wanted, check=False).returncode:
            return code
    failed = []
    for check in checks():
        began = time.monotonic()
        done = check.run()
        verdict = "FAILED" if done.returncode else "ok"
        print(f"  {verdict:7} {time.monotonic() - began:6.1f} s  {check.name}", flush=True)
        if done.returncode:
            failed.append(check.name)
            print(done.stdout + done.stderr, flush=True)
    print(f"\n{len(failed)} checks failed: {', '.join(failed)}" if failed else "\nall checks passed")
    return 1 if failed else 0
