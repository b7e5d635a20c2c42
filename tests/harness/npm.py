"""Installs a locked npm project for a test that needs another ecosystem's own parser or schema."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.waiting import eventually

ROOT = Path(__file__).parents[2]


def installed(project: Path) -> Path:
    """Return a folder under .run/ with the project's files and its packages, installed once for each lock file.

    Without node or npm the test fails, unless ALLOW_MISSING names node: then it is skipped, and counted so.
    """
    if not shutil.which("node") or not shutil.which("npm"):
        if "node" in os.environ.get("ALLOW_MISSING", "").replace(",", " ").split():
            pytest.skip("node: not on PATH and allowed to be missing: what it would check was not checked")
        pytest.fail(
            "node and npm are not on PATH. Install them (apt-get install nodejs npm) or run with "
            "ALLOW_MISSING=node, which leaves these checks out."
        )
    folder = ROOT / ".run" / "npm" / project.name
    folder.mkdir(parents=True, exist_ok=True)
    for path in project.iterdir():
        shutil.copy(path, folder)
    lock, stamp = (project / "package-lock.json").read_bytes(), folder / "installed-from"
    if not stamp.exists() or stamp.read_bytes() != lock:
        eventually(lambda: _install(folder), "npm ci succeeds (see its words above)", 60)
        stamp.write_bytes(lock)
    return folder


def _install(folder: Path) -> bool:
    command = ["npm", "ci", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr)
    return done.returncode == 0
