"""The environment of the client packages (`requirements/clients.lock`), and programs that run in it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.servers.edges import CLIENT_KEY

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "requirements" / "clients.lock"
JAVASCRIPT = ROOT / "services" / "router-service" / "tests" / "scenarios" / "client_packages"


def clients_python() -> Path:
    """Return the Python of the client packages' environment, installed again if its lock file has changed."""
    folder = ROOT / ".venv-clients"
    python, mark = folder / "bin" / "python", folder / ".lock-digest"
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not mark.is_file() or mark.read_text() != digest:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install: list[str | Path] = [python, "-m", "pip", "install", "-q", "--require-hashes", "--no-deps"]
        install += ["-r", LOCK]
        subprocess.run(install, check=True)
        mark.write_text(digest)
    return python


def run(*command: str | Path, cwd: Path | None = None, key: str = CLIENT_KEY) -> dict[str, Any]:
    """Run a program that prints one JSON object on its last line; it finds the key in ``PLATFORM_KEY``."""
    environment = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_PROXY": "127.0.0.1",
        "PLATFORM_KEY": key,
    }
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
