"""What `make test` installs for the files in ARGS, and how it handles a missing program."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from platform_tools import tiers

ROOT = Path(__file__).resolve().parents[3]
UNIT = "tools/platform-tools/tests/test_tier_report.py"


class Installed:
    """Records the requested installations."""

    def __init__(self) -> None:
        self.parts: set[str] = set()

    def __call__(self, *arguments: object) -> "Installed":
        return self

    def install(self, parts: list[str]) -> None:
        self.parts |= set(parts)


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        ([UNIT, "-x"], set()),
        ([f"{UNIT}::test_nothing"], set()),
        (["helm/tests/test_images.py"], {"tools"}),
        (["tests/e2e/test_real_answers.py"], {"vllm", "weights"}),
        (["-x"], {"tools", "vllm", "weights"}),
        ([], {"tools", "vllm", "weights"}),
    ],
)
def test_a_named_file_brings_only_what_it_needs(
    arguments: list[str], more: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = Installed()
    monkeypatch.setattr(tiers, "Installer", installed)
    tiers.install(arguments)
    assert installed.parts == {"packages:up", "packages:test", "platform"} | more


SAMPLE = """
from harness.programs import require

def test_it():
    require("no-such-program", "install it")
"""


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({}, 0, "1 skipped"),
        ({"STRICT": "1"}, 1, "STRICT=1 allows no missing program; install it"),
        ({"STRICT": "1", "ALLOW_MISSING": "terraform, no-such-program"}, 0, "1 skipped"),
    ],
)
def test_a_missing_program_skips_by_name_and_fails_where_strict(
    tmp_path: Path, variables: dict[str, str], code: int, said: str
) -> None:
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    environment = {key: value for key, value in os.environ.items() if key not in ("STRICT", "ALLOW_MISSING")}
    environment["PYTHONPATH"] = str(ROOT / "tests")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**environment, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout
    assert said in done.stdout
    assert "no-such-program" in done.stdout


def test_a_skip_is_counted_and_named_in_the_summary() -> None:
    """The tests that need terraform and node go through one function."""
    for file in ("infrastructure/tests/conftest.py", "tests/harness/npm.py"):
        assert "require(" in (ROOT / file).read_text()
        assert (
            shutil.__name__ not in (ROOT / file).read_text()
            or "shutil.which" not in (ROOT / file).read_text()
        )
