"""Every script prints --help without side effects, with or without its environment."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from platform_tools.main import COMMANDS, help_of

ROOT = Path(__file__).resolve().parents[3]


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with scripts and tools, and nothing installed."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("scripts", "tools/platform-tools/src"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_every_command_has_a_launcher_and_every_launcher_a_command() -> None:
    scripts = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and path.suffix != ".md"}
    assert scripts == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_comes_before_anything_is_installed_and_changes_nothing(name: str, bare: Path) -> None:
    before = files(bare)
    # No PATH, so that a script with side effects finds no apt-get, terraform, kubectl or make.
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, str(bare / "scripts" / name), "--help"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: scripts/{name}")
    assert files(bare) == before


@pytest.mark.parametrize(
    "name",
    sorted(name for name, each in COMMANDS.items() if each.usage is None and each.environment == ".venv"),
)
def test_a_command_with_options_lists_them(name: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / name), "--help"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


@pytest.mark.parametrize("name", sorted(name for name, each in COMMANDS.items() if each.usage == ""))
def test_a_command_without_arguments_refuses_some(name: str, bare: Path) -> None:
    command = [sys.executable, str(bare / "scripts" / name), "--hlep"]
    done = subprocess.run(command, env={"PATH": os.defpath}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--hlep" in done.stderr


def test_the_help_of_the_tests_names_its_variables() -> None:
    assert {"TIERS=", "ARGS=", "FULL=1", "STRICT=1"} <= set(help_of("run-tests").replace('"', " ").split())


def programs() -> list[str]:
    """Return the commands that the packages install."""
    projects = [*ROOT.glob("services/*/pyproject.toml"), ROOT / "load-testing" / "pyproject.toml"]
    found = (tomllib.loads(file.read_text())["project"].get("scripts", {}) for file in projects)
    return sorted(name for scripts in found for name in scripts)


@pytest.mark.parametrize("name", programs())
def test_every_program_lists_its_commands(name: str) -> None:
    """Argparse formats help texts with `%`, so one percent sign in the help of a command breaks the whole list."""
    done = subprocess.run(
        [Path(sys.executable).parent / name, "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout + done.stderr
