"""The chart llm-platform with its dependencies built, as a user builds them from a checkout."""

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from harness.kubernetes.chart_fields import HELM, UMBRELLA
from harness.kubernetes.tools import tool


@cache
def umbrella() -> Path:
    """Return the folder of a built copy: building in the checkout would disturb tests that run at the same time."""
    folder = Path(tempfile.mkdtemp(prefix="umbrella-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = shutil.copytree(
        HELM, folder / "helm", ignore=shutil.ignore_patterns("tests", "*.tgz", "Chart.lock")
    )
    done = subprocess.run(
        [tool("helm"), "dependency", "build", copy / UMBRELLA],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return copy / UMBRELLA
