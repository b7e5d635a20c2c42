"""Runs checkov of .venv-tools on a folder."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHECKOV = Path(__file__).resolve().parents[2] / ".venv-tools" / "bin" / "checkov"


def failed_checks(folder: Path, framework: str, *options: str) -> list[dict[str, Any]]:
    """Return checkov's failed checks.

    Raises:
        AssertionError: a file could not be parsed, or no check passed.
    """
    if not CHECKOV.exists():
        pytest.fail("no .venv-tools: python3 scripts/install-dependencies tools")
    done = subprocess.run(
        [CHECKOV, "-d", folder, "--framework", framework, *options, "--quiet", "--compact", "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 0
    failed: list[dict[str, Any]] = report["results"]["failed_checks"]
    return failed
