"""Installs a locked npm project for a test that needs a JavaScript parser or schema."""

import shutil
import subprocess
from pathlib import Path

from harness.programs import require
from harness.waiting import eventually

ROOT = Path(__file__).parents[2]


def installed(project: Path) -> Path:
    """Return a folder under .run/ with the project's files and its packages, installed once for each lock file.

    Without node or npm the test is skipped, or fails with STRICT=1 (:mod:`harness.programs`).
    """
    for program in ("node", "npm"):
        require(program, "install it: apt-get install --no-install-recommends nodejs npm")
    folder = ROOT / ".run" / "npm" / project.name
    folder.mkdir(parents=True, exist_ok=True)
    for path in project.iterdir():
        shutil.copy(path, folder)
    lock, stamp = (project / "package-lock.json").read_bytes(), folder / "installed-from"
    if not stamp.exists() or stamp.read_bytes() != lock:
        eventually(lambda: _install(folder), "npm ci succeeds (see its output above)", 60)
        stamp.write_bytes(lock)
    return folder


def _install(folder: Path) -> bool:
    command = ["npm", "ci", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr)
    return done.returncode == 0
