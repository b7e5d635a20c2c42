"""`make test`: runs the tests tier by tier and lists at the end what was not run and why.

TIERS="contract service"   only these tiers (contract, programs, untimed, service, platform)
ARGS="-x -k edge"          arguments of pytest; of a FILE named here only the needs are installed
FULL=1                     the long forms too
STRICT=1                   a missing program (terraform, node) is a failure; without it, what needs the program is
                           skipped and counted. ALLOW_MISSING="terraform" names exceptions.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from platform_tools.checkout import PLATFORM_PYTHON, ROOT
from platform_tools.local_stack.console import Console
from platform_tools.local_stack.installation import CannotInstall, Installer
from platform_tools.tier_report import Tier, exit_code, summary
from platform_tools.tier_runs import REPORTS, TIERS, run_chosen


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def full_only() -> int:
    """Return how many tests run only with FULL=1."""
    done = subprocess.run(
        [str(PLATFORM_PYTHON), "-m", "pytest", "-q", "--collect-only", "-m", "full"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return sum("::" in line for line in done.stdout.splitlines())


def install(arguments: list[str]) -> str | None:
    """Install what the chosen tests need; return why the platform tier cannot run, if it cannot.

    Raises:
        CannotInstall: no tier can run.
    """
    installer = Installer(ROOT, Console())
    installer.install(["packages:up", "packages:test", "platform"])
    files = named_files(arguments)
    if not files or any(mentions(file, ".venv-tools") for file in files):
        installer.install(["tools"])
    if files and not selects("platform", arguments):
        return "no test of it is chosen by ARGS"
    try:
        Installer(ROOT, Console()).install(["vllm", "weights"])
    except CannotInstall as error:
        print(f"\n{error}\n", file=sys.stderr)
        return f"vLLM could not be installed: {str(error).splitlines()[0]}"
    return None


def named_files(arguments: list[str]) -> list[Path]:
    """Return the test files that pytest's arguments name, files of named folders included."""
    paths = [ROOT / word.partition("::")[0] for word in arguments if not word.startswith("-")]
    found = [[path] if path.is_file() else sorted(path.rglob("test_*.py")) for path in paths if path.exists()]
    return [file for files in found for file in files]


def mentions(file: Path, text: str) -> bool:
    """Return whether a test file, a conftest.py above it or an imported module of tests/harness contains a text."""
    seen: set[Path] = set()
    waiting = [file, *(folder / "conftest.py" for folder in file.parents if folder.is_relative_to(ROOT))]
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        source = path.read_text()
        if text in source:
            return True
        for module in re.findall(r"^(?:from|import) (harness[.\w]*)", source, re.MULTILINE):
            waiting.append(ROOT / "tests" / (module.replace(".", "/") + ".py"))
    return False


def selects(marks: str, arguments: list[str]) -> bool:
    """Return whether pytest's arguments select any test with these marks."""
    command = [str(PLATFORM_PYTHON), "-m", "pytest", "-q", "--collect-only", "-m", marks, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.returncode == 0


def main(arguments: list[str]) -> int:
    """Run the tiers; exit 0 only if every wanted test ran and passed."""
    try:
        return run_tiers()
    except KeyboardInterrupt:
        print("\nmake test: interrupted", file=sys.stderr)
        return 130


def run_tiers() -> int:
    """Install what the tests need, run every wanted tier, print the summary and return the exit code."""
    signal.signal(signal.SIGTERM, interrupt)
    chosen = os.environ.get("TIERS", "").split()  # make passes an empty variable if none was given
    wanted = chosen or list(TIERS)
    if unknown := [name for name in wanted if name not in TIERS]:
        print(f"make test: unknown tiers {unknown} (known: {' '.join(TIERS)})", file=sys.stderr)
        return 2
    arguments = shlex.split(os.environ.get("ARGS", ""))
    began = time.monotonic()
    try:
        no_platform = install(arguments)
    except CannotInstall as error:
        print(f"\nmake test: {error}", file=sys.stderr)
        return 1
    installed_seconds = time.monotonic() - began
    left_out, not_run = [], {}
    for name in TIERS:
        if name not in wanted:
            not_run[name] = Tier(name, not_run=f"TIERS={' '.join(wanted)} leaves it out")
        elif name == "platform" and no_platform:
            not_run[name] = Tier(name, not_run=no_platform)
    ran = run_chosen([name for name in TIERS if name not in not_run], arguments)
    tiers = sorted([*ran, *not_run.values()], key=lambda tier: list(TIERS).index(tier.name))
    if os.environ.get("FULL") != "1" and (count := full_only()):
        left_out.append(f"{count} long forms: they run with FULL=1")
    left_out.append("tests/cluster: `make test-cluster` runs it where KUBECONFIG names a cluster")
    print("\n".join(summary(tiers, left_out)[:-1]))
    print(
        f"installation {installed_seconds:.1f} s, tests {time.monotonic() - began - installed_seconds:.1f} s; "
        f"reports in {REPORTS.relative_to(ROOT)}/"
    )
    print(summary(tiers, left_out)[-1], flush=True)
    strict = "1" in (os.environ.get("STRICT"), {"true": "1"}.get(os.environ.get("CI", "")))
    return exit_code(tiers, every_tier_must_run=strict and not chosen and not arguments)
